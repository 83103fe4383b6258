"""The fleet of a daemon: what it imports, and what it says if it can't."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.system.extras import FLEET

_OF_FLEETS: Final = ("wasmdrop.fleet", "wasmdrop.service.fleet", "nats", "nkeys")


def test_commands_without_a_fleet_import_nothing_of_it() -> None:
    """Neither the daemon nor a single run."""
    code = (
        "import sys, wasmdrop.cli.serve, wasmdrop.cli.run, wasmdrop.service.health.prometheus;"
        f"print([name for name in sys.modules if name.startswith({_OF_FLEETS!r})])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize(
    "words", [["config", "--keys", "keys"], ["init"], ["status"]], ids=lambda words: words[0]
)
def test_fleet_command_without_the_extra_says_how_to_install_it(
    tmp_path: Path, words: list[str]
) -> None:
    """In one line, and before it makes a key."""
    code = (
        "import sys; sys.modules.update(nats=None, nkeys=None)\n"
        "from wasmdrop.cli.main import main; sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "fleet", *words],
        cwd=tmp_path,
        env={"WASMDROP_CONFIG": "none", "WASMDROP_FLEET": "nats://127.0.0.1:1"},
        capture_output=True,
        check=False,
        text=True,
    )
    expected = f"wasmdrop: wasmdrop fleet: needs {FLEET.needs}; install it with"
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{expected} {FLEET.install_command}\n"
    assert list(tmp_path.iterdir()) == []


def test_missing_extra_is_an_error_that_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other missing modules are faults of the program."""
    monkeypatch.setitem(sys.modules, "nats", None)
    needed = pytest.raises(SettingsError, match="WASMDROP_FLEET: needs")
    with needed as raised, FLEET.required("WASMDROP_FLEET"):
        import nats.errors  # noqa: F401, PLC0415
    assert FLEET.install_command in str(raised.value)
    monkeypatch.setitem(sys.modules, "another", None)
    with pytest.raises(ModuleNotFoundError), FLEET.required("WASMDROP_FLEET"):
        import another  # type: ignore[import-not-found]  # noqa: F401, PLC0415
