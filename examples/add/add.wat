;; build: wat2wasm add.wat -o add-wat.wasm

(module
  ;; a + b, wrapping at 64 bits.
  (func (export "add") (param $a i64) (param $b i64) (result i64)
    (i64.add (local.get $a) (local.get $b))))
