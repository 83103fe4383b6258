// build: asc add.ts -O --runtime stub -o add-ts.wasm

/** a + b, wrapping at 64 bits. */
export function add(a: i64, b: i64): i64 {
  return a + b;
}
