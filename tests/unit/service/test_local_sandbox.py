"""Unit tests of opening the sandbox: which guest it has, and when it refuses to start."""

import asyncio
from pathlib import Path
from typing import Any, Self

import pytest

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.service import guest as guest_module
from wasmdrop.service import local_sandbox
from wasmdrop.service.local_sandbox import open_local_sandbox
from wasmdrop.settings import load


class FakeForkServer:
    """A fork server that starts no process."""

    missing = ""

    def __init__(self, *_args: Any, **_named: Any) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None: ...


def has_zygotes(
    monkeypatch: pytest.MonkeyPatch, state: Path, guest: str, program: Path | None, reason: str = ""
) -> bool:
    """Open the sandbox with a setting and a native program; return whether it has zygotes.

    ``reason``: why the program does not work.
    """

    async def why_unusable(*_args: object) -> str:
        return reason

    monkeypatch.setattr(local_sandbox, "why_unusable", why_unusable)
    monkeypatch.setattr(local_sandbox, "ForkServer", FakeForkServer)
    monkeypatch.setattr(guest_module, "find_native_program", lambda: program)
    state.mkdir(mode=0o700, exist_ok=True)
    settings = load({"WASMDROP_STATE_DIR": str(state), "WASMDROP_GUEST": guest}, {}).settings

    async def opened() -> bool:
        async with open_local_sandbox(settings, 1, 2) as (executor, _cache):
            return executor.has_zygotes

    return asyncio.run(opened())


def test_sandbox_that_lacks_the_demanded_native_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the setting and the ways out."""
    with pytest.raises(SettingsError) as refused:
        has_zygotes(monkeypatch, tmp_path / "state", "native", None)
    for words in ("WASMDROP_GUEST: native", "C compiler", "auto or python"):
        assert words in str(refused.value)


@pytest.mark.parametrize("guest", ["auto", "native"])
def test_sandbox_with_the_native_program_has_zygotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest: str
) -> None:
    """Unless the operator forbids it."""
    assert has_zygotes(monkeypatch, tmp_path / "state", guest, Path("/bin/true"))


def test_sandbox_in_python_has_no_zygotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the native program is there."""
    assert not has_zygotes(monkeypatch, tmp_path / "state", "python", Path("/bin/true"))


def test_native_program_that_does_not_work_is_refused_if_it_is_demanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the Python guest takes its place."""
    program, reason = Path("/bin/true"), "it is on a disk for data"
    with pytest.raises(SettingsError, match=r"WASMDROP_GUEST: native, but .* work here: it is on"):
        has_zygotes(monkeypatch, tmp_path / "state", "native", program, reason)
    assert not has_zygotes(monkeypatch, tmp_path / "state", "auto", program, reason)
