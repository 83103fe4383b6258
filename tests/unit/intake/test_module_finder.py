"""Finding modules: what a job knows of a module belongs to the bytes that it runs."""

import hashlib
import os
from pathlib import Path

from wasmdrop import settings
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.module_finder import ModuleFinder


def test_module_that_grows_while_it_is_read_has_the_size_of_its_copy(tmp_path: Path) -> None:
    """A copy of a file is often noticed before its last bytes are written."""
    shared_dir, wasm_dir = tmp_path / "shared", tmp_path / "wasm"
    shared_dir.mkdir()
    wasm_dir.mkdir()
    loaded = settings.load(
        {"WASMDROP_SHARED_DIR": str(shared_dir), "WASMDROP_WASM_DIR": str(wasm_dir)}, {}
    ).settings
    module = wasm_dir / "fib.wasm"
    module.write_bytes(b"\0asm")
    copies: dict[str, int] = {}

    def ingest(source_fd: int) -> str:
        module.write_bytes(b"\0asm, and the rest")
        content = os.pread(source_fd, 100, 0)
        sha256 = hashlib.sha256(content).hexdigest()
        copies[sha256] = len(content)
        return sha256

    finder = ModuleFinder(Layout(loaded), 1000, ingest, copies.__contains__, copies.get)
    found = finder.learn(str(module))
    assert found is not None
    assert found.sha256 == hashlib.sha256(module.read_bytes()).hexdigest()
    assert found.size_bytes == module.stat().st_size
