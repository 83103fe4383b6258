// build: asc affine.ts -O --runtime stub -o affine-ts.wasm

/** a * b + c, wrapping at 64 bits. */
export function affine(a: i64, b: i64, c: i64): i64 {
  return a * b + c;
}
