"""Two containers of the image, with different users and dates, deliver the same bytes."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.daemon import DEADLINE_SECONDS, drop, wait_until
from tests.support.deploy.engine import IMAGE, Engine
from tests.support.deterministic_jobs import CASES, files_of, module_bytes
from tests.support.other_date import at_other_date

#: C, Go, Rust, CPython, a component, and a command with output files.
_JOBS: Final = ("c", "go", "rust-command", "cpython", "component", "output-files")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Give a directory that the users of both containers may search."""
    for parent in [tmp_path, *list(tmp_path.parents)[:2]]:
        parent.chmod(0o755)
    return tmp_path


def serve(podman: Engine, base: Path, name: str, user: str, *options: str) -> Path:
    """Start a daemon in a container and drop all modules and inputs; return its directory."""
    folders = base / name
    shared = folders / "shared"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    for job in _JOBS:
        drop(folders / f"wasm/{job}.wasm", module_bytes(CASES[job]))
        given = {"module": job, "deterministic": True} | CASES[job].keys
        drop(shared / f"input-{job}.json", given)
    podman.podman(
        *("run", "--detach", f"--name={name}", f"--user={user}:{user}", "--read-only", "--init"),
        *("--cap-drop=all", "--security-opt=no-new-privileges", "--tmpfs=/tmp:mode=1777"),
        *("--env=WASMDROP_STATE_DIR=/tmp/wasmdrop", "--env=WASMDROP_COMPILE_SEC=300", *options),
        *(f"--volume={folders}/wasm:/mnt/wasm:ro", f"--volume={shared}:/mnt/shared", IMAGE),
    )
    return shared


def marker_of(shared: Path, job: str) -> dict[str, Any]:
    """Return the marker of a job, after a check of all digests."""
    path = shared / f"result-{job}.done"
    # All modules are compiled at once, CPython among them.
    wait_until(path.exists, path.name, 5 * DEADLINE_SECONDS)
    marker = json.loads(path.read_bytes())
    assert isinstance(marker, dict)
    for file, entry in marker["files"].items():
        assert hashlib.sha256((shared / file).read_bytes()).hexdigest() == entry["sha256"]
    return marker


def test_deterministic_jobs_in_two_containers_deliver_the_same_bytes(
    podman: Engine, base: Path
) -> None:
    """The second one runs as another user, years later, in another time zone."""
    date = at_other_date(base, days=900)
    here = serve(podman, base, "wasmdrop-here", "1000")
    later = serve(
        *(podman, base, "wasmdrop-later", "2000", "--env=TZ=Asia/Kathmandu"),
        *(f"--env={name}=/date/{Path(value).name}" for name, value in date.items()),
        f"--volume={base}:/date:ro",
    )
    for job in _JOBS:
        ours, theirs = marker_of(here, job), marker_of(later, job)
        assert ours["code"] == "ok", ours["message"]
        assert files_of(ours, f"result-{job}") == files_of(theirs, f"result-{job}")
        years = [int(marker["finished_at"][:4]) for marker in (ours, theirs)]
        assert years[1] - years[0] >= 2
    for name in ("wasmdrop-here", "wasmdrop-later"):
        podman.podman("stop", "--time=40", name)
