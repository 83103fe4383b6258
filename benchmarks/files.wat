;; A WASI command that copies the file in.txt of its directory, of at most 64 KiB, to out.txt.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) "in.txt")
  (data (i32.const 48) "out.txt")
  (func $need (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  (func $open (param $name i32) (param $length i32) (param $flags i32) (param $rights i64) (result i32)
    ;; Descriptor 3 is the directory.
    (call $need (call $path_open (i32.const 3) (i32.const 0) (local.get $name) (local.get $length)
      (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 12)))
    (i32.load (i32.const 12)))
  (func (export "_start") (local $fd i32)
    (local.set $fd (call $open (i32.const 32) (i32.const 6) (i32.const 0) (i64.const 2)))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 65536))
    (call $need (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $need (call $fd_close (local.get $fd)))
    ;; To be created, and emptied if it exists.
    (local.set $fd (call $open (i32.const 48) (i32.const 7) (i32.const 9) (i64.const 64)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (call $need (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $need (call $fd_close (local.get $fd)))))
