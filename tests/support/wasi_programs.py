"""Programs for WASI preview 1, as text: commands, reactors, and functions that use files."""

from typing import Final

#: Imports and memory of the programs below.
STREAMS: Final = """
(import "wasi_snapshot_preview1" "fd_write"
  (func $fd_write (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_read"
  (func $fd_read (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
(import "wasi_snapshot_preview1" "args_sizes_get"
  (func $args_sizes_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "environ_sizes_get"
  (func $environ_sizes_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "poll_oneoff"
  (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
(memory (export "memory") 4)
(func $write (param $fd i32) (param $at i32) (param $size i32)
  (i32.store (i32.const 0) (local.get $at))
  (i32.store (i32.const 4) (local.get $size))
  (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
"""

STREAM_PROGRAMS: Final[dict[str, str]] = {
    "hello": """(data (i32.const 64) "hello\\n") (data (i32.const 80) "oh\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 6))
          (call $write (i32.const 2) (i32.const 80) (i32.const 3)))""",
    # Exits with the number of its arguments beside its own name.
    "count": """(func (export "_start") (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
        (call $proc_exit (i32.sub (i32.load (i32.const 0)) (i32.const 1))))""",
    # Prints its arguments, each with the NUL that ends it.
    "args": """(func (export "_start") (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call $args_get (i32.const 1024) (i32.const 4096)))
        (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))""",
    "env": """(func (export "_start")
        (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call $environ_get (i32.const 1024) (i32.const 4096)))
        (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))""",
    # Copies its standard input to its standard output.
    "cat": """(func (export "_start") (loop $more
        (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 65536))
        (drop (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
        (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 24)))
        (br_if $more (i32.load (i32.const 24)))))""",
    # Writes 100,000 bytes in pieces of 1,000.
    "much": """(func (export "_start") (local $n i32)
        (memory.fill (i32.const 1024) (i32.const 120) (i32.const 1000))
        (loop $more (call $write (i32.const 1) (i32.const 1024) (i32.const 1000))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 100)))))""",
    "endless": """(func (export "_start")
        (memory.fill (i32.const 1024) (i32.const 120) (i32.const 1000))
        (loop $more (call $write (i32.const 1) (i32.const 1024) (i32.const 1000)) (br $more)))""",
    "trap": """(data (i32.const 64) "before\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 7))
          (unreachable))""",
    "hang": """(data (i32.const 64) "before\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 7))
          (loop (br 0)))""",
    # Sleeps for an hour: one subscription to the monotonic clock (witx: subscription, 48 bytes).
    "sleep": """(data (i32.const 64) "before\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 7))
          (i32.store (i32.const 144) (i32.const 1))
          (i64.store (i32.const 152) (i64.const 3600000000000))
          (drop (call $poll_oneoff (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320))))
    """,
    "bytes": """(data (i32.const 64) "\\ff\\00\\1b[31m\\c3\\a9")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 9)))""",
    # A reactor: its function gives what _initialize has set.
    "reactor": """(global $set (mut i32) (i32.const 1))
        (func (export "_initialize") (global.set $set (i32.mul (global.get $set) (i32.const 42))))
        (func (export "run") (result i32) (global.get $set))""",
    "bad-reactor": """(func (export "_initialize") (unreachable))
        (func (export "run") (result i32) (i32.const 1))""",
    "exiting-reactor": """(func (export "_initialize") (call $proc_exit (i32.const 5)))
        (func (export "run") (result i32) (i32.const 1))""",
}


#: WASI functions for files, with helpers. Names are given as address and length; descriptor 3 is
#: the first preopened directory.
FILES: Final = (
    """
(import "wasi_snapshot_preview1" "path_open" (func $path_open
  (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
(import "wasi_snapshot_preview1" "path_create_directory"
  (func $path_create_directory (param i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "path_symlink"
  (func $path_symlink (param i32 i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "path_unlink_file"
  (func $path_unlink_file (param i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "path_rename"
  (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_filestat_set_size"
  (func $fd_filestat_set_size (param i32 i64) (result i32)))
"""
    + STREAMS
    + """
(func $need (param $errno i32) (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
;; Opens for reading; ends with the errno where that fails.
(func $open (param $at i32) (param $size i32) (param $flags i32) (param $rights i64) (result i32)
  (call $need (call $path_open (i32.const 3) (i32.const 1) (local.get $at) (local.get $size)
    (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 32)))
  (i32.load (i32.const 32)))
(func $create (param $at i32) (param $size i32) (result i32)
  (call $open (local.get $at) (local.get $size) (i32.const 1) (i64.const 0x400040)))
(func $mkdir (param $at i32) (param $size i32)
  (call $need (call $path_create_directory (i32.const 3) (local.get $at) (local.get $size))))
(func $save (param $at i32) (param $size i32) (param $text i32) (param $length i32)
  (local $fd i32)
  (local.set $fd (call $create (local.get $at) (local.get $size)))
  (call $write (local.get $fd) (local.get $text) (local.get $length))
  (call $need (call $fd_close (local.get $fd))))
"""
)

FILE_PROGRAMS: Final[dict[str, str]] = {
    # Copies data/in.txt to its output, and writes two files and a directory.
    "work": """(data (i32.const 64) "data/in.txt") (data (i32.const 80) "out") (data (i32.const 96)
        "out/answer.txt") (data (i32.const 112) "top") (data (i32.const 128) "42\\n")
        (func (export "_start") (local $fd i32)
          (local.set $fd (call $open (i32.const 64) (i32.const 11) (i32.const 0) (i64.const 2)))
          (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 65536))
          (call $need (call $fd_read (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 24)))
          (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 24)))
          (call $mkdir (i32.const 80) (i32.const 3))
          (call $save (i32.const 96) (i32.const 14) (i32.const 128) (i32.const 3))
          (call $save (i32.const 112) (i32.const 3) (i32.const 1024) (i32.const 1)))""",
    "idle": """(func (export "_start"))""",
    "fails": """(data (i32.const 64) "left") (func (export "_start")
          (call $save (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 4))
          (call $proc_exit (i32.const 3)))""",
    "hangs": """(data (i32.const 64) "left") (func (export "_start")
          (call $save (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 4)) (loop (br 0)))""",
    # A function that is no command and reads a file; gives the number of bytes.
    "function": """(data (i32.const 64) "a") (func (export "run") (result i32)
          (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 65536))
          (call $need (call $fd_read
            (call $open (i32.const 64) (i32.const 1) (i32.const 0) (i64.const 2))
            (i32.const 16) (i32.const 1) (i32.const 24)))
          (i32.load (i32.const 24)))""",
    # Links out of the directory, a name with a newline, and an input that must not run.
    "odd": """(data (i32.const 64) "../../modules") (data (i32.const 80) "out") (data
        (i32.const 96) "a\\0ab") (data (i32.const 112) "input.json") (data (i32.const 128) "{}")
        (func (export "_start")
          (call $need (call $path_symlink (i32.const 64) (i32.const 13) (i32.const 3)
            (i32.const 80) (i32.const 3)))
          (call $save (i32.const 96) (i32.const 3) (i32.const 128) (i32.const 2))
          (call $save (i32.const 112) (i32.const 10) (i32.const 128) (i32.const 2)))""",
    # Opens "..", and exits with the errno.
    "escape": """(data (i32.const 64) "../x") (func (export "_start")
          (drop (call $create (i32.const 64) (i32.const 4))))""",
    # One file without end.
    "large": """(data (i32.const 64) "f") (func (export "_start") (local $fd i32)
          (local.set $fd (call $create (i32.const 64) (i32.const 1)))
          (loop $more (call $write (local.get $fd) (i32.const 1024) (i32.const 65536))
            (br $more)))""",
    # A file of a terabyte that takes no room.
    "sparse": """(data (i32.const 64) "f") (func (export "_start")
          (drop (call $fd_filestat_set_size (call $open (i32.const 64) (i32.const 1) (i32.const 1)
            (i64.const 0x400040)) (i64.const 0x10000000000))))""",
    # Files of 64 KiB each, without end, under names of eight letters.
    "many": """(func (export "_start") (local $n i64) (local $fd i32)
          (loop $more (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (i64.store (i32.const 64) (i64.or (i64.const 0x4141414141414141)
              (i64.or (i64.shl (i64.and (local.get $n) (i64.const 0xf)) (i64.const 1))
              (i64.or (i64.and (i64.shl (local.get $n) (i64.const 5)) (i64.const 0x1e00))
              (i64.or (i64.and (i64.shl (local.get $n) (i64.const 9)) (i64.const 0x1e0000))
              (i64.and (i64.shl (local.get $n) (i64.const 13)) (i64.const 0x1e000000)))))))
            (call $save (i32.const 64) (i32.const 8) (i32.const 1024) (i32.const SIZE))
            (br $more)))""",
    # A directory in a directory, 3,000 deep: each new one takes the last one in.
    "deep": """(data (i32.const 64) "a") (data (i32.const 80) "b") (data (i32.const 96) "b/a")
        (func (export "_start") (local $n i32)
          (call $mkdir (i32.const 64) (i32.const 1))
          (loop $more (call $mkdir (i32.const 80) (i32.const 1))
            (call $need (call $path_rename (i32.const 3) (i32.const 64) (i32.const 1) (i32.const 3)
              (i32.const 96) (i32.const 3)))
            (call $need (call $path_rename (i32.const 3) (i32.const 80) (i32.const 1) (i32.const 3)
              (i32.const 64) (i32.const 1)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 3000)))))""",
}

FILE_PROGRAMS["empty-files"] = FILE_PROGRAMS["many"].replace("SIZE", "0")

FILE_PROGRAMS["many"] = FILE_PROGRAMS["many"].replace("SIZE", "65536")


#: Reads the file named by its standard input, from descriptor 5, the first grant. Prints its
#: content, or exits with the errno.
READER: Final = f"""(module {FILES}
  (func (export "_start") (local $size i32)
    (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 4096))
    (call $need (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
    (call $need (call $path_open (i32.const 5) (i32.const 1) (i32.const 1024)
      (i32.load (i32.const 24)) (i32.const FLAGS) (i64.const RIGHTS) (i64.const 0) (i32.const 0)
      (i32.const 32)))
    (call $need (call $fd_read (i32.load (i32.const 32))
      (i32.const 16) (i32.const 1) (i32.const 24)))
    (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 24)))))"""
