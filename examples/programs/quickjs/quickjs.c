/*
 * Runs JavaScript: quickjs SCRIPT [ARGUMENT...]. A script has print(value...), read(path) and
 * write(path, text), and its arguments in scriptArgs.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quickjs.h"

static char *load(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *text = calloc(1, *size + 1);
  if (text && fread(text, 1, *size, file) != *size) {
    free(text);
    text = NULL;
  }
  fclose(file);
  return text;
}

static JSValue js_print(JSContext *context, JSValueConst self, int count, JSValueConst *values) {
  (void)self;
  for (int i = 0; i < count; i++) {
    const char *text = JS_ToCString(context, values[i]);
    if (!text) return JS_EXCEPTION;
    printf("%s%s", i ? " " : "", text);
    JS_FreeCString(context, text);
  }
  putchar('\n');
  return JS_UNDEFINED;
}

static JSValue js_read(JSContext *context, JSValueConst self, int count, JSValueConst *values) {
  (void)self;
  (void)count;
  const char *path = JS_ToCString(context, values[0]);
  size_t size = 0;
  char *text = path ? load(path, &size) : NULL;
  JSValue result = text ? JS_NewStringLen(context, text, size)
                        : JS_ThrowReferenceError(context, "can't read %s", path ? path : "");
  free(text);
  JS_FreeCString(context, path);
  return result;
}

static JSValue js_write(JSContext *context, JSValueConst self, int count, JSValueConst *values) {
  (void)self;
  (void)count;
  size_t size = 0;
  const char *path = JS_ToCString(context, values[0]);
  const char *text = JS_ToCStringLen(context, &size, values[1]);
  FILE *file = path && text ? fopen(path, "wb") : NULL;
  int written = file && fwrite(text, 1, size, file) == size;
  if (file && fclose(file)) written = 0;
  JSValue result =
      written ? JS_UNDEFINED : JS_ThrowReferenceError(context, "can't write %s", path ? path : "");
  JS_FreeCString(context, path);
  JS_FreeCString(context, text);
  return result;
}

static void define(JSContext *context, JSValue global, const char *name, JSCFunction *function,
                   int length) {
  JS_SetPropertyStr(context, global, name, JS_NewCFunction(context, function, name, length));
}

int main(int argc, char **argv) {
  size_t size = 0;
  char *script = argc > 1 ? load(argv[1], &size) : NULL;
  if (!script) {
    fprintf(stderr, "usage: quickjs SCRIPT [ARGUMENT...]\n");
    return 2;
  }
  JSContext *context = JS_NewContext(JS_NewRuntime());
  JSValue global = JS_GetGlobalObject(context);
  define(context, global, "print", js_print, 1);
  define(context, global, "read", js_read, 1);
  define(context, global, "write", js_write, 2);
  JSValue arguments = JS_NewArray(context);
  for (int i = 2; i < argc; i++)
    JS_SetPropertyUint32(context, arguments, (uint32_t)i - 2, JS_NewString(context, argv[i]));
  JS_SetPropertyStr(context, global, "scriptArgs", arguments);
  JSValue result = JS_Eval(context, script, size, argv[1], JS_EVAL_TYPE_GLOBAL);
  if (JS_IsException(result)) {
    const char *text = JS_ToCString(context, JS_GetException(context));
    fprintf(stderr, "%s\n", text ? text : "exception");
    return 1;
  }
  return 0;
}
