"""Outcomes of jobs, as a producer sees them, and faults of the daemon itself."""

from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, wait_until


def faults(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the faults that the daemon has logged, and its output outside the log format."""
    stray = [line for line in daemon.log_text().splitlines() if not line.startswith("{")]
    logged = [event for event in daemon.events() if event["level"] in {"error", "critical"}]
    return [*logged, *({"stray": line} for line in stray)]


def failure(daemon: Daemon, name: str, code: str, *words: str) -> str:
    """Wait for the slot's marker; check that all three result files report the same failure."""
    marker = wait_until(lambda: daemon.marker(name), f"the marker of {name}")
    assert (marker["status"], marker["code"]) == ("failed", code), marker["message"]
    message = str(marker["message"])
    for word in words:
        assert word in message
    result = daemon.result(name)
    assert list(result)[:3] == ["entry", "args", "error"]
    assert result["error"] == {"code": code, "message": message}
    lines = daemon.result_path(name, ".txt").read_text().splitlines()
    assert lines[-1] == "error"
    assert lines[-2].startswith(f"error: {code}: ")
    if marker["input"] is not None:
        assert marker["input"]["path"] == str(daemon.shared / name)
    return message


class Run:
    """One run of a program, with its marker, result and output."""

    def __init__(self, daemon: Daemon, slot: str, program: str, **keys: Any) -> None:
        name = f"input-{slot}.json"
        self.marker = daemon.submit(name, {"module": program, **keys})
        self.code = self.marker["code"]
        self.message = self.marker["message"]
        self.result = daemon.result(name)
        text = daemon.result_path(name, ".txt").read_text()
        self.raw_value = text.splitlines()[-1]
        self.files = {
            suffix: _content(daemon.result_path(name, suffix)) for suffix in (".stdout", ".stderr")
        }


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
