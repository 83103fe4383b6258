/*
 * Runs SQL: sqlite DATABASE SCRIPT. The database is made where it is not there; each row of an
 * answer is printed as one line, its values with | between them.
 */

#include <stdio.h>
#include <stdlib.h>

#include "sqlite3.h"

static int print_row(void *unused, int count, char **values, char **names) {
  (void)unused;
  (void)names;
  for (int i = 0; i < count; i++)
    printf("%s%s", i ? "|" : "", values[i] ? values[i] : "NULL");
  putchar('\n');
  return 0;
}

static char *read_all(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) {
    perror(path);
    exit(2);
  }
  long size = ftell(file);
  char *text = calloc(1, (size_t)size + 1);
  rewind(file);
  if (!text || fread(text, 1, (size_t)size, file) != (size_t)size) {
    perror(path);
    exit(2);
  }
  fclose(file);
  return text;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: sqlite DATABASE SCRIPT\n");
    return 2;
  }
  sqlite3 *database;
  char *message = NULL;
  if (sqlite3_open(argv[1], &database)) {
    fprintf(stderr, "%s: %s\n", argv[1], sqlite3_errmsg(database));
    return 1;
  }
  if (sqlite3_exec(database, read_all(argv[2]), print_row, NULL, &message)) {
    fprintf(stderr, "%s: %s\n", argv[2], message);
    return 1;
  }
  return sqlite3_close(database) == SQLITE_OK ? 0 : 1;
}
