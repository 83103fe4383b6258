"""``wasmdrop init``: make the folders of a daemon, its configuration file and an example module."""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from wasmdrop import settings
from wasmdrop.cli.named_files import create_file
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.text import one_line
from wasmdrop.settings.example_file import example_file

_DESCRIPTION: Final = """\
Makes the folders and files of a daemon of one user in the directory DIR: wasm/ for modules, shared/
for inputs and results, state/ for the journal, and config.toml with these folders and every other
setting, commented out. Adds wasm/fib.wasm as an example. Files and folders that exist are kept.
"""

_EPILOG: Final = """\
Prints the commands that start the daemon and run the example.

Exit status: 0; 2 a folder or file can't be made, or the daemon would refuse the settings.

Examples:
  wasmdrop init demo
"""

#: The folders, with the mode of each before the umask, and the setting that names it.
_FOLDERS: Final = (
    ("wasm", 0o755, "wasm_dir"),
    ("shared", 0o755, "shared_dir"),
    ("state", 0o700, "state_dir"),
)

_EXAMPLE: Final = "fib.wasm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "directory",
        nargs="?",
        default=".",
        metavar="DIR",
        help="directory, which is made if it does not exist (default: the current one)",
    )


def run(options: argparse.Namespace) -> int:
    """Make the folders and files, and print the next commands; return the exit status."""
    top = Path(options.directory)
    _make_directory(top, 0o755)
    for name, mode, _setting in _FOLDERS:
        _say(top / name, is_new=_make_directory(top / name, mode))
    config = top / "config.toml"
    text = example_file({setting: name for name, _mode, setting in _FOLDERS})
    _say(config, is_new=_make_file(config, text.encode()))
    module = top / "wasm" / _EXAMPLE
    _say(module, is_new=_make_file(module, Path(__file__).with_name(_EXAMPLE).read_bytes()))
    # The commands below would say the same, but later.
    settings.load(os.environ, {"config": str(config)})
    named = f"./{config}" if str(config).startswith("-") else str(config)
    program, flag = _program(), f"--config {shlex.quote(named)}"
    sys.stdout.write(
        f"""
Start the daemon:
  {program} serve {flag}

Run the example, in another terminal:
  {program} submit {flag} --module fib --entry fib --args '[12]' --wait
"""
    )
    return 0


def _make_directory(path: Path, mode: int) -> bool:
    """Make a directory if it does not exist; return whether it was made."""
    try:
        if path.is_dir():
            return False
        for above in reversed(path.parents):
            if not above.exists():
                above.mkdir(0o755)
        path.mkdir(mode)
    except ValueError:
        raise SettingsError(f"{one_line(str(path))}: no directory can have this name") from None
    except OSError as error:
        raise _failed(path, error) from None
    return True


def _make_file(path: Path, data: bytes) -> bool:
    """Make a file if nothing has its name; return whether it was made."""
    try:
        create_file(path, data, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise _failed(path, error) from None
    return True


def _failed(path: Path, error: OSError) -> SettingsError:
    return SettingsError(f"{one_line(str(path))}: can't be made: {error.strerror}")


def _say(path: Path, *, is_new: bool) -> None:
    sys.stdout.write(f"{'made' if is_new else 'kept'} {one_line(str(path))}\n")


def _program() -> str:
    """Return the words that call this program again from the same directory."""
    script = sys.argv[0]
    if Path(script).name != "wasmdrop":
        return f"{shlex.quote(sys.executable)} -m wasmdrop"
    found = shutil.which("wasmdrop")
    is_on_path = found is not None and os.path.realpath(found) == os.path.realpath(script)
    return "wasmdrop" if is_on_path else shlex.quote(script)
