"""Markers as the daemon writes them, for tests that put one into a slot."""

from typing import Any


def a_marker(files: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a valid marker of a job that succeeded, with these files and other keys changed."""
    moment = "2026-01-01T00:00:00.000000Z"
    return {
        "schema": "wasmdrop.marker/1",
        "job": "a job",
        "id": None,
        "status": "succeeded",
        "code": "ok",
        "message": "",
        "attempt": 1,
        "slot": "input.json",
        "entry": "fib",
        "module": None,
        "input": None,
        "files": files,
        **dict.fromkeys(("dropped_at", "started_at", "finished_at"), moment),
        "seconds": dict.fromkeys(("queued", "compile", "run", "total"), 0.0),
        "limits": {},
        "runtime": dict.fromkeys(("wasmdrop", "wasmtime", "platform"), ""),
    } | changes
