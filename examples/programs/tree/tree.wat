;; Sorts numbers with a binary tree of garbage-collected structs, and throws an exception at a number
;; that comes twice.
(module
  (rec (type $tree (struct
    (field $value i32)
    (field $left (mut (ref null $tree)))
    (field $right (mut (ref null $tree))))))
  (tag $twice (param i32))

  (func $insert (param $tree (ref null $tree)) (param $value i32) (result (ref $tree))
    (if (ref.is_null (local.get $tree))
      (then (return (struct.new $tree (local.get $value) (ref.null $tree) (ref.null $tree)))))
    (if (i32.eq (local.get $value) (struct.get $tree $value (local.get $tree)))
      (then (throw $twice (local.get $value))))
    (if (i32.lt_u (local.get $value) (struct.get $tree $value (local.get $tree)))
      (then (struct.set $tree $left (local.get $tree)
        (call $insert (struct.get $tree $left (local.get $tree)) (local.get $value))))
      (else (struct.set $tree $right (local.get $tree)
        (call $insert (struct.get $tree $right (local.get $tree)) (local.get $value)))))
    (ref.as_non_null (local.get $tree)))

  (func $depth (param $tree (ref null $tree)) (result i32)
    (local $left i32) (local $right i32)
    (if (ref.is_null (local.get $tree)) (then (return (i32.const 0))))
    (local.set $left (call $depth (struct.get $tree $left (local.get $tree))))
    (local.set $right (call $depth (struct.get $tree $right (local.get $tree))))
    (i32.add (i32.const 1)
      (select (local.get $left) (local.get $right)
        (i32.gt_u (local.get $left) (local.get $right)))))

  ;; Inserts the powers of 3 modulo a prime, until one comes twice; returns it and the tree's depth.
  (func (export "run") (param $prime i32) (result i32 i32)
    (local $tree (ref null $tree)) (local $value i32)
    (local.set $value (i32.const 1))
    (block $caught (result i32)
      (try_table (catch $twice $caught)
        (loop $next
          (local.set $tree (call $insert (local.get $tree) (local.get $value)))
          (local.set $value
            (i32.rem_u (i32.mul (local.get $value) (i32.const 3)) (local.get $prime)))
          (br $next)))
      (unreachable))
    (call $depth (local.get $tree))))
