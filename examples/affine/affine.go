// build: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -o affine-go.wasm affine.go

package main

// affine returns a*b + c, wrapping at 64 bits.
//
//go:wasmexport affine
func affine(a, b, c int64) int64 {
	return a*b + c
}

// main is never called: the module is a library, but Go asks for a main.
func main() {}
