// build: GOOS=wasip1 GOARCH=wasm go build -trimpath -o wordcount-go.wasm wordcount.go

// Wordcount counts the lines, words and bytes of standard input. The arguments
// -l, -w and -c choose which of them to print; without any, all three are.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

var flags = [...]string{"-l", "-w", "-c"}

// count returns the lines, words and bytes of r, in the order of flags.
func count(r io.ByteReader) ([len(flags)]uint64, error) {
	var counts [len(flags)]uint64
	inWord := false
	for {
		b, err := r.ReadByte()
		if err == io.EOF {
			return counts, nil
		}
		if err != nil {
			return counts, err
		}
		inSpace := strings.IndexByte(" \t\n\v\f\r", b) >= 0
		if b == '\n' {
			counts[0]++
		}
		if !inSpace && !inWord {
			counts[1]++
		}
		counts[2]++
		inWord = !inSpace
	}
}

// fail ends the program with a message on standard error.
func fail(status int, problem string, detail any) {
	fmt.Fprintf(os.Stderr, "wordcount: %s: %v\n", problem, detail)
	os.Exit(status)
}

func main() {
	wanted := map[string]bool{}
	for i, arg := range os.Args {
		if i == 0 {
			continue // the name of the program
		}
		if !slices.Contains(flags[:], arg) {
			fail(2, "unknown argument", arg)
		}
		wanted[arg] = true
	}

	counts, err := count(bufio.NewReader(os.Stdin))
	if err != nil {
		fail(1, "standard input", err)
	}

	var fields []string
	for i, flag := range flags {
		if wanted[flag] || len(wanted) == 0 {
			fields = append(fields, fmt.Sprint(counts[i]))
		}
	}
	fmt.Println(strings.Join(fields, " "))
}
