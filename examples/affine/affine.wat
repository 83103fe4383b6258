;; build: wat2wasm affine.wat -o affine-wat.wasm

(module
  ;; a * b + c, wrapping at 64 bits.
  (func (export "affine") (param $a i64) (param $b i64) (param $c i64) (result i64)
    (i64.add
      (i64.mul (local.get $a) (local.get $b))
      (local.get $c))))
