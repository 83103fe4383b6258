"""The parts of `make release-check` that judge: the changelog, the contents, the links."""

import importlib.util
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from scripts.release import changelog, contents
from scripts.release.changelog import ChangelogError
from scripts.release.distribution import StepError

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = "https://forge.example/wasmdrop"
TEXT: Final = """\
# Changelog

## Unreleased

## 1.1.0 - 2026-02-01

### Added

- New.

## 1.0.0 - 2026-01-01

- Old.
"""


def setup_script() -> Any:
    """Return setup.py as a module."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel_with(path: Path, description: str) -> Path:
    """Return a wheel with a description."""
    metadata = f"Name: wasmdrop\nProject-URL: Source, {SOURCE}\n\n{description}"
    with zipfile.ZipFile(path / "wheel.whl", "w") as archive:
        archive.writestr("wasmdrop-1.0.0.dist-info/METADATA", metadata)
    return path / "wheel.whl"


def test_notes_of_a_release_are_its_section() -> None:
    """Without its heading."""
    assert changelog.notes(TEXT, "1.1.0", today="2026-02-01") == "### Added\n\n- New."
    assert changelog.notes(TEXT, "1.0.0") == "- Old."


@pytest.mark.parametrize(
    ("text", "version", "reason"),
    [
        (TEXT, "1.2.0", "expected a section `## 1.2.0 - YYYY-MM-DD`"),
        (TEXT, "1.0.0", "1.1.0 is above 1.0.0"),
        (TEXT.replace("1.1.0 - 2026", "1.1.0 - 2027"), "1.1.0", "in the future"),
        (
            TEXT.replace("Unreleased", "Unreleased\n\n- More."),
            "1.1.0",
            "the lines under Unreleased",
        ),
        (TEXT.replace("1.1.0 - ", "1.1.0 "), "1.1.0", "expected a section"),
    ],
)
def test_changelog_of_no_release_is_refused(text: str, version: str, reason: str) -> None:
    """With the way to mend it."""
    with pytest.raises(ChangelogError, match=re.escape(reason)):
        changelog.notes(text, version, today="2026-02-01")


def test_version_without_tags_follows_the_newest_release() -> None:
    """Else a build without tags would look older than a release."""
    newest = changelog.newest_release(changelog.CHANGELOG.read_text(encoding="utf-8"))
    series, _, patch = newest.rpartition(".")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert settings["setuptools_scm"]["fallback_version"] == f"{series}.{int(patch) + 1}.dev0"


@pytest.mark.parametrize(
    ("version", "ref"),
    [("1.0.0", "v1.0.0"), ("1.0.1.dev3+g1234567", "main"), ("1.0.1.dev0", "main")],
)
def test_readme_of_an_index_page_has_links_to_its_version(version: str, ref: str) -> None:
    """Files of a release are those of its tag. Links to sections and to other sites stay."""
    readme = "[a](docs/a.md#b), ![p](docs/p.png), [c](#c), [d](https://d.example/)"
    assert setup_script().index_page(readme, SOURCE, version) == (
        f"[a]({SOURCE}/blob/{ref}/docs/a.md#b), ![p]({SOURCE}/raw/{ref}/docs/p.png),"
        " [c](#c), [d](https://d.example/)"
    )


@pytest.mark.parametrize(
    ("link", "reason"),
    [("docs/cli.md", "leads nowhere"), (f"{SOURCE}/blob/main/docs/none.md", "docs/none.md is no")],
)
def test_description_with_a_dead_link_is_refused(tmp_path: Path, link: str, reason: str) -> None:
    """Whether the link is relative or the file is missing."""
    with pytest.raises(StepError, match=reason):
        contents.check_links(wheel_with(tmp_path, f"[here]({link})"), ROOT)


def test_description_with_links_to_files_is_accepted(tmp_path: Path) -> None:
    """Also to directories and sections."""
    links = f"[a]({SOURCE}/blob/v1.0.0/docs/cli.md#top) [b]({SOURCE}/blob/main/docs) [c](#c)"
    assert contents.check_links(wheel_with(tmp_path, links), ROOT) == "3 links"


def test_wheel_without_the_program_is_refused(tmp_path: Path) -> None:
    """Its jobs would be slower."""
    wheel = tmp_path / "wasmdrop-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("wasmdrop/py.typed", "wasmdrop/page/static/index.html"):
            archive.writestr(name, "")
    with pytest.raises(StepError, match="lacks wasmdrop/sandbox/guest/native/zygote"):
        contents.check_files(wheel)


def test_workflows_pin_actions_and_images() -> None:
    """By the digest of their content: a tag can move. Permissions are given job by job."""
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    for path in workflows:
        text = path.read_text(encoding="utf-8")
        assert yaml.safe_load(text)["permissions"] == {}
        for used in re.findall(r"uses: (\S+)", text):
            assert re.fullmatch(r"\S+@[0-9a-f]{40}|\./\S+", used), (path.name, used)
        for image in re.findall(r"image: (\S+/\S+)", text):
            assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image), (path.name, image)
