"""Two machines deliver the same bytes for a deterministic job.

The daemons differ in everything that the files must not depend on: user, directories, names of
slots, date, time zone, locale, umask, number of workers, guest, and the state that they start with.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, drop
from tests.support.deterministic_jobs import CASES, files_of, module_bytes
from tests.support.guests import require_guest, use_guest
from tests.support.other_date import at_other_date
from tests.support.require import require_users
from tests.support.users import DAEMON, as_user, shared_base


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """Give a directory that the users of both daemons may search."""
    with shared_base() as directory:
        yield directory


@pytest.fixture(scope="module")
def daemons(base: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """Give two daemons as different as two machines."""
    require_users()
    require_guest("native")
    one = Daemon(base / "one", WASMDROP_COMPILE_SEC="300", LC_ALL="C.UTF-8")
    use_guest("native", one)
    other = Daemon(
        base / "a place with another name/two",
        WASMDROP_COMPILE_SEC="300",
        WASMDROP_GUEST="python",
        WASMDROP_WORKERS="1",
        WASMDROP_SANDBOX="best-effort",
        TZ="Asia/Kathmandu",
        LC_ALL="C",
        **at_other_date(base, days=900),
    )
    other.prefix = ("env", "--chdir=/", *as_user(DAEMON), "sh", "-c", 'umask 077; exec "$@"', "sh")
    for directory in (other.shared, other.state.parent):
        subprocess.run(["chown", "-R", f"{DAEMON}:{DAEMON}", directory], check=True)
    with one.running(), other.running():
        yield one, other


@pytest.mark.parametrize("name", CASES)
def test_deterministic_job_on_two_machines_delivers_the_same_bytes(
    daemons: tuple[Daemon, Daemon], name: str
) -> None:
    """At the first call, which compiles and runs in a child of the fork server, and at later ones.

    The first line of ``result.txt`` is the start of the job's clock.
    """
    case = CASES[name]
    module = module_bytes(case)
    job = {"deterministic": True, "module": name} | case.keys
    slots = [(daemons[0], f"input-{name}.json"), (daemons[1], f"{name}/deep/er/input.json")]
    found = []
    for daemon, slot in slots:
        drop(daemon.wasm / f"{name}.wasm", module)
        directory = (daemon.shared / slot).parent
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o777)  # the daemons are users of their own
    for call in range(3):
        given = {"id": f"call {call}"} | job
        content = json.dumps(given).encode()
        for daemon, slot in slots:
            drop(daemon.shared / slot, content)
        for daemon, slot in slots:
            marker = daemon.wait_for(slot, content)
            assert marker["code"] == case.code, marker["message"]
            assert marker["deterministic"]["profile"] == 1
            daemon.result(slot)  # checks the files against their digests
            found.append(files_of(marker, daemon.result_path(slot, "").name))
            text = daemon.result_path(slot, ".txt").read_text()
            assert text.startswith("timestamp: 2000-01-01T00:00:00Z\n")
    assert found == [found[0]] * len(found)


def test_other_job_has_the_wall_clock_of_its_machine(daemons: tuple[Daemon, Daemon]) -> None:
    """The dates of the two machines are years apart."""
    years = []
    for daemon in daemons:
        drop(daemon.wasm / "wall.wasm", module_bytes(CASES["c"]))
        daemon.submit("input-wall.json", {"module": "wall"} | CASES["c"].keys)
        marker = daemon.marker("input-wall.json")
        assert marker is not None
        text = daemon.result_path("input-wall.json", ".txt").read_text()
        assert text.startswith(f"timestamp: {marker['finished_at'][:19]}Z\n")
        years.append(int(marker["finished_at"][:4]))
    assert years[1] - years[0] >= 2
