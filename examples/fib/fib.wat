;; build: wat2wasm fib.wat -o fib-wat.wasm

(module
  ;; The n-th Fibonacci number, counted from fib(0) = 0. It wraps past n = 92.
  (func (export "fib") (param $n i64) (result i64)
    (local $current i64)
    (local $next i64)
    (local $sum i64)
    (local.set $next (i64.const 1))
    (block $done
      (loop $again
        (br_if $done (i64.le_s (local.get $n) (i64.const 0)))
        (local.set $sum (i64.add (local.get $current) (local.get $next)))
        (local.set $current (local.get $next))
        (local.set $next (local.get $sum))
        (local.set $n (i64.sub (local.get $n) (i64.const 1)))
        (br $again)))
    (local.get $current)))
