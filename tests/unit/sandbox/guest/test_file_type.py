"""Recognition of WebAssembly and of other file formats."""

import base64
import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from wasmtime import Config, Engine, Module, wat2wasm

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.guest.file_type import HEAD_BYTES, refuse_unless_wasm
from wasmdrop.sandbox.guest.toolchains import FILE_FORMATS

MODULE: Final = bytes(wat2wasm('(module (func (export "run")))'))


def _tar(data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("it.wasm")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def _zip(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("it.wasm", data)
    return packed.getvalue()


def _precompiled(data: bytes) -> bytes:
    return bytes(Module(Engine(Config()), data).serialize())


PACKED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "tar": _tar,
    "zip": _zip,
    "base64": base64.b64encode,
    "precompiled": _precompiled,
}

#: First bytes of files of each format in the table, by the first words of its name.
SAMPLES: Final[dict[str, tuple[bytes, ...]]] = {
    "an ELF file": (b"\x7fELF\2\1\1\0", b"\x7fELF\1\1\1\0", b"\x7fELF" + bytes(600)),
    "a Mach-O file": (
        b"\xcf\xfa\xed\xfe\x0c\0\0\1",
        b"\xce\xfa\xed\xfe\x07\0\0\0",
        b"\xfe\xed\xfa\xcf\0\0\0\0",
        b"\xca\xfe\xba\xbe\0\0\0\2",
    ),
    "a Windows program": (b"MZ\x90\0\3\0\0\0", b"MZ" + bytes(62), b"MZ\0"),
    "LLVM bitcode": (b"BC\xc0\xde\x35\x14\0\0", b"BC\xc0\xde", b"BC\xc0\xde\x21\x0c\0\0"),
    "a static library": (b"!<arch>\n/               0", b"!<arch>\n", b"!<thin>\n//"),
    "a gzip archive": (b"\x1f\x8b\x08\0\0\0\0\0", b"\x1f\x8b\x08\x08", b"\x1f\x8b\x08\x00abc"),
    "a zstd archive": (
        b"\x28\xb5\x2f\xfd\x24\x08\x41\0",
        b"\x28\xb5\x2f\xfd\x04\x88",
        b"\x28\xb5\x2f\xfd(module)",
    ),
    "an xz archive": (b"\xfd7zXZ\0\0\4", b"\xfd7zXZ\0\0\1", b"\xfd7zXZ\0\0\x0a"),
    "a bzip2 archive": (b"BZh91AY&SY", b"BZh11AY&SY\0", b"BZh51AY&SY\xff"),
    "a zip archive": (b"PK\3\4\x14\0\0\0", b"PK\3\4\x0a\0", b"PK\5\6" + bytes(18)),
    "a 7-Zip archive": (
        b"7z\xbc\xaf\x27\x1c\0\4",
        b"7z\xbc\xaf\x27\x1c",
        b"7z\xbc\xaf\x27\x1c\0\3",
    ),
    "a tar archive": (
        b"it.wasm".ljust(257, b"\0") + b"ustar\x0000",
        b"./".ljust(257, b"\0") + b"ustar  \0",
        b"a" * 100 + bytes(157) + b"ustar",
    ),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:",
        b"version https://git-lfs.github.com/spec/v1\r\n",
        b"version https://git-lfs.github.com/spec/v2",
    ),
    "an HTML page": (b"<!DOCTYPE html>\n<html>", b"\n\n  <html lang=en>", b"\xef\xbb\xbf<HTML>"),
    "an XML file": (
        b'<?xml version="1.0"?><Error>',
        b"\xef\xbb\xbf<?xml ?>",
        b'\n<?xml version="1.1"?>',
    ),
    "a JSON file": (
        b'{"message": "Not Found"}',
        b'{\n  "entry": "fib"',
        b"{}",
        b'\xef\xbb\xbf{"a"',
    ),
    "WebAssembly text": (
        b"(module",
        b"\n  (module\n",
        b";; a comment\n(module)",
        b"(; a comment ;)",
        b"(component (core module",
        b"\xef\xbb\xbf(module)",
        b";; only comments, as a long header has" * 20,
    ),
    "base64 of a module": (
        b"AGFzbQEAAAA=",
        b"data:application/wasm;base64,AGFzbQ0A",
        b"AGFzbQEA\n",
    ),
    "JavaScript": (
        b"var Module = (() => {",
        b'"use strict";\n',
        b"// made by a toolchain\n/* and more */\nexport default async function init() {",
        b"(function(root, factory) {",
        b"(() => { if (typeof globalThis",
        b"import * as wasm from './it_bg.wasm';",
        b"!function(e){",
        b"/**//**//**/const fs = require('fs');",
    ),
    "a text file": (
        b"#!/bin/sh\necho pwned\n",
        b"404: Not Found",
        b"fn main() {}\n",
        b"#include <stdio.h>\n",
        b"bad",
    ),
}


def refusal(head: bytes) -> str:
    """Return the message about a file that begins with ``head``."""
    with pytest.raises(RefusedError) as caught:
        refuse_unless_wasm(head[:HEAD_BYTES])
    assert caught.value.code is Code.INVALID_MODULE
    return caught.value.message


def test_every_file_format_has_samples() -> None:
    """So that none is untested."""
    assert len(SAMPLES) == len(FILE_FORMATS)
    for words, file in zip(SAMPLES, FILE_FORMATS, strict=True):
        assert file.what.startswith(words)


@pytest.mark.parametrize("words", SAMPLES)
def test_file_of_other_format_is_refused_with_name_and_remedy(words: str) -> None:
    """By its first bytes, even if they are few."""
    remedy = next(file.remedy for file in FILE_FORMATS if file.what.startswith(words))
    for head in SAMPLES[words]:
        message = refusal(head)
        assert message.startswith(f"the file is not WebAssembly: it is {words}"), head
        assert message.endswith(f"; {remedy}"), head


@pytest.mark.parametrize("pack", PACKED)
def test_packed_module_is_refused_with_name_of_format(pack: str) -> None:
    """Packed by the real packers."""
    words = {"precompiled": "(.cwasm)"}.get(pack, pack)
    assert words in refusal(PACKED[pack](MODULE))


@pytest.mark.parametrize("path", ["/proc/self/exe", __file__])
def test_real_file_of_other_format_is_refused_with_name(path: str) -> None:
    """A program of this machine, and a source file."""
    assert "an ELF file" in refusal(Path(path).read_bytes()) or path == __file__
    assert refusal(Path(path).read_bytes()).startswith("the file is not WebAssembly: it is a")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "it is empty"),
        (b"\0", "it is cut short after 1 bytes"),
        (b"\0as", "it is cut short after 3 bytes"),
        (b"\0asm\1\0", "it is cut short after 6 bytes"),
        (
            b"\0asm\2\0\0\0",
            "expected version 01 00 00 00 (a module) or 0d 00 01 00 (a component), got 02 00 00 00",
        ),
        (b"\x89PNG\r\n", "expected it to begin with 00 61 73 6d, got 89 50 4e 47"),
        (b"\1\2\3\4", "expected it to begin with 00 61 73 6d, got 01 02 03 04"),
        (b"\xff\xfe(\0m\0", "expected it to begin with 00 61 73 6d, got ff fe 28 00"),
    ],
)
def test_file_of_unknown_format_is_refused_with_first_bytes(head: bytes, message: str) -> None:
    """An empty or truncated file is named as such."""
    assert message in refusal(head)


@pytest.mark.parametrize(
    "head",
    [
        b"/*" * 256,
        b"/**/" * 128,
        b"//\n" * 170,
        b" " * 512,
        b"(;" * 256,
        b"!((((" * 100,
        b";;" * 256,
    ],
)
def test_patterns_of_file_formats_take_linear_time(head: bytes) -> None:
    """A pattern with exponential time would hang here."""
    assert refusal(head).startswith("the file is not WebAssembly: ")
