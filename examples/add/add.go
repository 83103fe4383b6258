// build: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -o add-go.wasm add.go

package main

// add returns a + b, wrapping at 64 bits.
//
//go:wasmexport add
func add(a, b int64) int64 {
	return a + b
}

// main is never called: the module is a library, but Go asks for a main.
func main() {}
