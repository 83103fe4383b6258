// build: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -o fib-go.wasm fib.go

package main

// fib returns the n-th Fibonacci number, counted from fib(0) = 0. It wraps past
// n = 92.
//
//go:wasmexport fib
func fib(n int64) int64 {
	current, next := int64(0), int64(1)
	for i := int64(0); i < n; i++ {
		current, next = next, current+next
	}
	return current
}

// main is never called: the module is a library, but Go asks for a main.
func main() {}
