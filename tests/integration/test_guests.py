"""The same jobs in the native guest and in the Python guest, which must have equal outcomes."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import JOB_USER, Daemon, drop
from tests.support.guests import running_in
from tests.support.job_cases import CASES, GRANTS, comparable, make_books, prints, reads
from tests.support.wasi_programs import FILES

#: In the native guest, each runs in another child of one zygote.
_CALLS: Final = 3

#: Numbers the jobs: the same bytes in one slot would find the marker of an earlier one.
_numbers: Final = itertools.count()


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a granted directory."""
    path = tmp_path_factory.mktemp("granted") / "books"
    make_books(path, "a book")
    for parent in path.parents:
        if parent != Path("/") and parent.owner() == path.owner():
            parent.chmod(parent.stat().st_mode | 0o011)
    return path


@pytest.fixture(scope="module")
def daemons(
    tmp_path_factory: pytest.TempPathFactory, books: Path
) -> Iterator[tuple[Daemon, Daemon]]:
    """Give two running daemons: with the native guest, and with the Python guest."""
    base = tmp_path_factory.mktemp("guests")
    grants = ",".join(f"{name}={books}" for name in ("books", *GRANTS))
    settings = {"WASMDROP_GRANTS": grants, "WASMDROP_ATTEMPTS": "1", "TIMEOUT_SEC": "3600"}
    native = Daemon(base / "native", **settings)
    # A daemon reports foreign processes of the user of its jobs.
    python = Daemon(base / "python", **settings, WASMDROP_JOB_USER=str(JOB_USER - 100))
    unfit = [name for name, case in CASES.items() if not case.is_fit]
    with running_in("native", native, unfit=unfit), running_in("python", python):
        yield native, python


def outcomes(daemons: tuple[Daemon, Daemon], name: str, keys: dict[str, Any]) -> list[Any]:
    """Run a job in both daemons at once; return all of its outcomes but the times."""
    content = json.dumps({"module": name, **keys, "id": str(next(_numbers))}).encode()
    for daemon in daemons:
        drop(daemon.shared / "input.json", content)
    return [
        comparable(daemon, "input.json", daemon.wait_for("input.json", content))
        for daemon in daemons
    ]


@pytest.mark.parametrize("name", CASES)
def test_outcome_of_a_job_is_the_same_in_both_guests(
    daemons: tuple[Daemon, Daemon], name: str
) -> None:
    """Markers and result files, of the first call of a module and of later ones."""
    case = CASES[name]
    for daemon in daemons:
        drop(daemon.wasm / f"{name}.wasm", case.module)
    for _ in range(_CALLS):
        native, python = outcomes(daemons, name, case.keys)
        assert native == python
        assert native["code"] == case.code, native["message"]


def test_output_over_the_limit_of_a_job_with_a_directory_ends_it(
    daemons: tuple[Daemon, Daemon],
) -> None:
    """The daemon kills the native child, so the memory is unknown then.

    Without that the endless loop would run until its timeout, which no test awaits.
    """
    case = prints("output-limit", (2, 1000, 100), prelude=FILES, disk_mb=1)
    text = f"(module {case.text.strip().removesuffix(')')} (loop (br 0))))"
    for daemon in daemons:
        drop(daemon.wasm / "over.wasm", bytes(wat2wasm(text)))
    for _ in range(_CALLS):
        native, python = outcomes(daemons, "over", case.keys)
        del native["peak_memory_bytes"], python["peak_memory_bytes"]
        assert native == python
        assert native["code"] == case.code, native["message"]


def test_grant_replaced_while_a_zygote_lives_is_the_new_one(
    daemons: tuple[Daemon, Daemon], books: Path
) -> None:
    """A zygote is confined to the directory that it was started for."""
    case = reads("title")
    for daemon in daemons:
        drop(daemon.wasm / "replaced.wasm", case.module)
    for title in ("first", "second", "third", "fourth"):
        make_books(books, title)
        for _ in range(_CALLS):
            native, python = outcomes(daemons, "replaced", case.keys)
            assert native == python
            assert native["code"] == case.code, native["message"]
            for daemon in daemons:
                assert daemon.result_path("input.json", ".stdout").read_text() == title
    make_books(books, "a book")
