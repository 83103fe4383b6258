"""What a hostile owner of a slot does, in a loop, until it is ended: ``python -m ... NAME ARGS``.

Each prints how often it has made its move, a line each time, so that a test can wait for that.
"""

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final

_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _exchange(one: str, other: str) -> bool:
    """Have two names change places at once (renameat2(2)); whether that was possible."""
    paths = os.fsencode(one), os.fsencode(other)
    return bool(_libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _EXCHANGE) == 0)


def _told() -> None:
    sys.stdout.write(".\n")
    sys.stdout.flush()


def exchange_staging(slot: str, victim: str) -> None:
    """Put a directory of one's own where the daemon stages an output, then a link in that."""
    done: set[str] = set()
    while True:
        with os.scandir(slot) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.startswith(".wasmdrop-") and entry.is_dir(follow_symlinks=False)
            ]
        for name in names:
            if name not in done:
                done.add(name)
                bait = f"{slot}/.bait-{name}"
                os.mkdir(bait)
                os.chmod(bait, 0o777)  # noqa: S103 - the daemon may be no root
                if _exchange(f"{slot}/{name}", bait):
                    _told()
                    _link_in(f"{slot}/{name}", victim)


def _link_in(place: str, victim: str) -> None:
    """Replace the directory that the daemon makes in ``place``, if it does, by a link."""
    for _ in range(2000):
        try:
            os.rename(f"{place}/sub", f"{place}/was")
            os.symlink(victim, f"{place}/sub")
        except FileNotFoundError:
            continue
        except OSError:
            return
        return


def flip(path: str, target: str, pause_seconds: str = "0") -> None:
    """Have ``path``, a directory or a file, change places with a link to ``target``."""
    link = f"{os.path.dirname(path)}/.link-{os.getpid()}"
    os.symlink(target, link)
    while True:
        if _exchange(path, link):
            _told()
        time.sleep(float(pause_seconds))


def close_output(slot: str, victim: str) -> None:
    """Make outputs with a directory that can't be opened, and exchange that with a link."""
    while True:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{slot}/result.output", f"{slot}/.away-{os.urandom(8).hex()}")
            os.mkdir(f"{slot}/result.output")
            os.chmod(f"{slot}/result.output", 0o777)  # noqa: S103 - the daemon may be no root
            os.chdir(f"{slot}/result.output")
            os.mkdir("closed", 0)
            os.symlink(victim, "link")
        except OSError:
            continue  # the daemon was faster
        _told()
        for _ in range(5000):
            # The daemon may have given it another name in this directory.
            with os.scandir(".") as entries:
                names = [entry.name for entry in entries if entry.name != "link"]
            if not names or not _exchange(names[0], "link"):
                break


def swap_volume(slot: str) -> None:
    """Tell of a directory again and again, as a volume does whose content was exchanged."""
    link = f"{slot}/..data"
    while True:
        os.symlink("nothing", link)
        os.unlink(link)
        _told()


ATTACKS: Final[dict[str, Callable[..., None]]] = {
    "close_output": close_output,
    "exchange_staging": exchange_staging,
    "flip": flip,
    "swap_volume": swap_volume,
}

if __name__ == "__main__":
    ATTACKS[sys.argv[1]](*sys.argv[2:])
