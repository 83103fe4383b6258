"""Builds what a release publishes: ``make dist``.

The source distribution, from it a wheel with the native program, a software bill of materials, and
the digests of all. The same commit gives the same bytes.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = Path(sys.executable).parent


class StepError(Exception):
    """A step failed; the text says why and how to mend it."""


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command with the tools of releases on PATH; return what it prints."""
    environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"} | variables
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-20:]
        raise StepError(
            "\n".join([f"{' '.join(map(str, command))}: status {done.returncode}", *last])
        )
    return done.stdout


def build(tree: Path, target: Path) -> tuple[Path, Path]:
    """Build the distributions of a clone; return the source distribution and the wheel."""
    target.mkdir(parents=True, exist_ok=True)
    epoch = run("git", "log", "-1", "--format=%ct", cwd=tree).strip()
    with tempfile.TemporaryDirectory() as directory:
        built = Path(directory)
        command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", built, tree)
        run(*command, SOURCE_DATE_EPOCH=epoch)
        (plain,) = built.glob("*.whl")
        if plain.name.endswith("-none-any.whl"):
            raise StepError("the wheel has no native program: install a C compiler")
        # An index refuses linux_x86_64: the tag must name the oldest C library that will do.
        run("auditwheel", "repair", "--wheel-dir", built / "tagged", plain, SOURCE_DATE_EPOCH=epoch)
        (wheel,) = (built / "tagged").glob("*.whl")
        (archive,) = built.glob("*.tar.gz")
        return archive.rename(target / archive.name), wheel.rename(target / wheel.name)


def bill_of_materials(tree: Path, target: Path, version: str) -> Path:
    """Write the locked packages of the image and of an installation as CycloneDX."""
    path = target / f"wasmdrop-{version}.cdx.json"
    command = ("cyclonedx-py", "requirements", "requirements-extras.lock")
    options = ("--pyproject", "pyproject.toml", "--output-reproducible", "--validate")
    run(*command, *options, "--output-file", path, cwd=tree)
    return path


def version_of(archive: Path) -> str:
    """Return the version in the name of a source distribution."""
    return archive.name.removeprefix("wasmdrop-").removesuffix(".tar.gz")


def main(target: Path) -> None:
    """Build all files of a release into an empty directory."""
    if target.exists() and any(target.iterdir()):
        raise StepError(f"{target}: expected an empty directory; remove it")
    archive, wheel = build(ROOT, target)
    files = (archive, wheel, bill_of_materials(ROOT, target, version_of(archive)))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (target / "SHA256SUMS").write_text("".join(lines))
    print("".join(lines), end="")


if __name__ == "__main__":
    try:
        main(ROOT / "dist")
    except StepError as error:
        sys.exit(str(error))
