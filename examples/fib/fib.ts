// build: asc fib.ts -O --runtime stub -o fib-ts.wasm

/** The n-th Fibonacci number, counted from fib(0) = 0. It wraps past n = 92. */
export function fib(n: i64): i64 {
  let current: i64 = 0;
  let next: i64 = 1;
  for (let i: i64 = 0; i < n; i++) {
    const sum = current + next;
    current = next;
    next = sum;
  }
  return current;
}
