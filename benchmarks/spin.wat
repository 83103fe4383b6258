;; x = x * a + c, so many times: a chain of steps that no compiler can shorten.
(module
  (func (export "spin") (param $x i64) (param $turns i64) (result i64)
    (loop $again
      (local.set $x
        (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (local.set $turns (i64.sub (local.get $turns) (i64.const 1)))
      (br_if $again (i64.gt_s (local.get $turns) (i64.const 0))))
    ;; Without its sign, which not all who print it agree on.
    (i64.shr_u (local.get $x) (i64.const 1))))
