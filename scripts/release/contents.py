"""Checks what is in the distributions of a release."""

import email
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from scripts.release.distribution import StepError, run

PROGRAM: Final = "wasmdrop/sandbox/guest/native/zygote"
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
#: What a build adds to the files of the repository.
_ADDED: Final = re.compile(r"PKG-INFO|setup\.cfg|daemon/wasmdrop\.egg-info/.*")


def check_archive(archive: Path, tree: Path) -> str:
    """Check that the source distribution has the files of the repository and no others."""
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened.getmembers() if member.isfile()}
    exclude = (tree / "MANIFEST.in").read_text().rpartition("exclude ")[2].split()
    expected = set(run("git", "ls-files", "-z", cwd=tree).split("\0")) - {"", *exclude}
    if missing := sorted(expected - names):
        raise StepError(f"{archive.name} lacks {', '.join(missing)}: see MANIFEST.in")
    if junk := sorted(name for name in names - expected if not _ADDED.fullmatch(name)):
        raise StepError(f"{archive.name} has files of no commit: {', '.join(junk)}")
    return f"{len(names)} files in the source distribution"


def check_wheel(wheel: Path) -> str:
    """Check the contents of the wheel."""
    run("check-wheel-contents", wheel)
    return f"{check_files(wheel)} in the wheel"


def check_files(wheel: Path) -> int:
    """Check that a wheel has the native program, the page and its types; return how many files."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        needed = {PROGRAM, "wasmdrop/py.typed", "wasmdrop/page/static/index.html"}
        if missing := sorted(needed - names):
            raise StepError(
                f"{wheel.name} lacks {', '.join(missing)}: see pyproject.toml, setup.py"
            )
        if not opened.getinfo(PROGRAM).external_attr >> 16 & 0o111:
            raise StepError(f"{wheel.name}: {PROGRAM} is not executable: see setup.py")
    return len(names)


def check_links(wheel: Path, tree: Path) -> str:
    """Check that the links of the description work outside the repository."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        data = email.message_from_bytes(opened.read(name))
    urls = dict(line.split(", ", 1) for line in data.get_all("Project-URL", []))
    links = _LINK.findall(str(data.get_payload()))
    for link in links:
        if not re.match("https://|#", link):
            raise StepError(f"README.md: the link {link} leads nowhere on an index page")
        found = re.match(rf"{re.escape(urls['Source'])}/(?:blob|raw)/[^/]+/([^#]+)", link)
        if found and not (tree / found[1]).exists():
            raise StepError(f"README.md: {found[1]} is no file of the repository")
    return f"{len(links)} links"
