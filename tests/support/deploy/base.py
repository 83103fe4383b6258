"""The base of the deploy tests: a Debian with systemd and Python, and the locked packages.

Both the machine and the container image are made of one directory, which takes half a minute to
make and is kept between runs, as are the wheels.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.require import lack, require, require_root, require_tools

ROOT: Final = Path(__file__).parents[3]

CACHE: Final = Path(os.environ.get("WASMDROP_DEPLOY_CACHE", "/var/tmp/wasmdrop-deploy"))  # noqa: S108 - root's alone
_SUITE: Final = "bookworm"
_PACKAGES: Final = "python3,python3-venv,ca-certificates,make,systemd,systemd-sysv,dbus"
_COMPILER: Final = "gcc,libc6-dev"
_PYTHON: Final = f"python3,python3-venv,make,{_COMPILER}"
#: The steps for any present suite, also one that is newer than debootstrap.
_SCRIPT: Final = "/usr/share/debootstrap/scripts/sid"


def base_root(*, has_compiler: bool) -> Path:
    """Return a directory with a small Debian: the read-only lower layer of an overlay.

    The first call needs a network.
    """
    require_root()
    require_tools("debootstrap")
    packages = f"{_PACKAGES},{_COMPILER}" if has_compiler else _PACKAGES
    with _made_once(f"{_SUITE}-{_digest(packages.encode())}") as (path, is_new):
        if is_new:
            command = ["debootstrap", "--variant=minbase", f"--include={packages}", _SUITE]
            _fetch([*command, str(path), *_mirror()])
    return path


def python_root(suite: str) -> Path:
    """Return a directory with a small Debian of another suite: its Python and a compiler."""
    require_root()
    require_tools("debootstrap")
    with _made_once(f"{suite}-{_digest(_PYTHON.encode())}") as (path, is_new):
        if is_new:
            mirror = _mirror()
            require(mirror, "a mirror of Debian")
            command = ["debootstrap", "--variant=minbase", f"--include={_PYTHON}", suite]
            _fetch([*command, str(path), *mirror, _SCRIPT])
    return path


def wheels() -> Path:
    """Return a directory with the locked packages, for pip without a network."""
    return _packages("wheels", ["requirements-extras.lock"])


def developers_packages(python: str) -> Path:
    """Return a directory with the locked packages and tools of developers for another Python."""
    locks = ["requirements.lock", "requirements-dev.lock"]
    return _packages(f"python{python}", locks, "--no-deps", "--python-version", python)


def _packages(name: str, locks: Sequence[str], *options: str) -> Path:
    files = [ROOT / lock for lock in locks]
    digest = _digest(b"".join(file.read_bytes() for file in files))
    with _made_once(f"{name}-{digest}") as (path, is_new):
        if is_new:
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
            given = [word for file in files for word in ("-r", str(file))]
            _fetch([*pip, "download", "--require-hashes", *options, *given, "-d", str(path)])
    return path


def working_tree(target: Path) -> None:
    """Copy the present sources to ``target``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


@contextlib.contextmanager
def overlaid(lower: Path, base: Path) -> Iterator[Path]:
    """Give a copy of the root ``lower`` with the sources in ``/src``; changes go to ``base``."""
    root, upper, work = base / "root", base / "upper", base / "work"
    for directory in (root, upper, work):
        directory.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(root)], check=True)
    try:
        working_tree(root / "src")
        yield root
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@contextlib.contextmanager
def _made_once(name: str) -> Iterator[tuple[Path, bool]]:
    """Give a directory of the cache, and whether the block must fill it."""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    path, done = CACHE / name, CACHE / f"{name}.done"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            yield path, False
            return
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        yield path, True
        done.touch()


def _fetch(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        report = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        lack(f"a network: {report}")


def _mirror() -> list[str]:
    """Return the Debian mirror of this machine; none if it is no Debian."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    with contextlib.suppress(FileNotFoundError):
        found = subprocess.run(
            [*command, f"Codename: {_SUITE}"], capture_output=True, text=True, check=False
        )
        return found.stdout.split()[:1]
    return []


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
