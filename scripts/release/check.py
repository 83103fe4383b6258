"""Does what the release workflow does, on a clean clone, and checks it: ``make release-check``.

``VERSION`` names the release to check before its tag exists. Without it the tag of the current
commit decides; a commit without one is checked as a development version. Each step prints one line;
the first that fails ends the check with status 1.
"""

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from scripts.release import changelog, contents, distribution, installation
from scripts.release.distribution import ROOT, StepError, run

_INSTALLERS: Final = {
    "pip, with extras": installation.by_pip,
    "pipx": installation.by_pipx,
    "uv": installation.by_uv,
}


class Check:
    """The steps of one check; each returns what it found."""

    def __init__(self, directory: Path, wanted: str) -> None:
        self._directory = directory
        self._wanted = wanted
        self._tree = directory / "clone"
        self._archive = self._wheel = Path()
        self.version = ""
        self.is_release = False

    def clone(self) -> str:
        """Clone the current commit: files that are not committed are not part of a release."""
        run("git", "clone", "--quiet", "--no-hardlinks", ROOT, self._tree)
        changed = run("git", "status", "--porcelain").splitlines()
        commit = run("git", "log", "-1", "--format=%h %s", cwd=self._tree).strip()
        return commit + (f"; without {len(changed)} uncommitted files" if changed else "")

    def find_version(self) -> str:
        """Compare the tag, the changelog and the version that clones without tags have."""
        text = (self._tree / "CHANGELOG.md").read_text(encoding="utf-8")
        newest = changelog.newest_release(text)
        major, minor, patch = map(int, newest.split("."))
        with (self._tree / "pyproject.toml").open("rb") as file:
            fallback = tomllib.load(file)["tool"]["setuptools_scm"]["fallback_version"]
        if fallback != (following := f"{major}.{minor}.{patch + 1}.dev0"):
            raise StepError(f"pyproject.toml: set fallback_version to {following}, got {fallback}")
        tags = run("git", "tag", "--points-at", "HEAD", "--list", "v*", cwd=self._tree).split()
        self._wanted = self._wanted or (tags[0][1:] if tags else "")
        if not self._wanted:
            return (
                f"no tag on this commit, so a development version; `VERSION={newest} make"
                " release-check` checks a release before its tag"
            )
        if not re.fullmatch(r"\d+\.\d+\.\d+", self._wanted):
            raise StepError(f"VERSION: expected X.Y.Z, got {self._wanted}")
        today = dt.datetime.now(dt.UTC).date().isoformat()
        changelog.notes(text, self._wanted, today=today)
        self.is_release = True
        if tags:
            return f"{self._wanted}, by the tag {tags[0]} and CHANGELOG.md"
        run("git", "tag", f"v{self._wanted}", cwd=self._tree)
        return f"{self._wanted}, by VERSION and CHANGELOG.md; the tag is in the clone only"

    def build(self) -> str:
        """Build with the tools that the lock file pins."""
        self._archive, self._wheel = distribution.build(self._tree, self._directory / "dist")
        self.version = distribution.version_of(self._archive)
        if self.is_release and self.version != self._wanted:
            raise StepError(f"built {self.version}: another tag is on this commit, or none")
        sizes = (f"{each.name} ({each.stat().st_size >> 10} KiB)" for each in self._distributions())
        return ", ".join(sizes)

    def build_again(self) -> str:
        """Build in another directory: the bytes are the same."""
        tree = self._directory / "a second clone"
        run("git", "clone", "--quiet", self._tree, tree)
        again = distribution.build(tree, self._directory / "again")
        for first, second in zip(self._distributions(), again, strict=True):
            if first.read_bytes() != second.read_bytes():
                raise StepError(f"{first.name} differs between two builds: see setup.py")
        return "two builds in different directories have the same bytes"

    def check_metadata(self) -> str:
        """Check the metadata and the rendering of the description."""
        run("twine", "check", "--strict", *self._distributions())
        run("pyroma", "--min", "10", self._tree)
        return "twine is content, pyroma gives 10/10"

    def check_contents(self) -> str:
        """Check what is in the distributions."""
        found = contents.check_archive(self._archive, self._tree)
        return f"{found}, {contents.check_wheel(self._wheel)}"

    def check_links(self) -> str:
        """Check the links of the description."""
        return contents.check_links(self._wheel, self._tree)

    def write_bill(self) -> str:
        """Write the software bill of materials."""
        path = distribution.bill_of_materials(self._tree, self._directory, self.version)
        return f"{len(json.loads(path.read_bytes())['components'])} packages in {path.name}"

    def check_workflows(self) -> str:
        """Check the files of the forge against their schemas, and for weaknesses."""
        directory = self._tree / ".github"
        workflows = sorted(directory.glob("workflows/*.yml"))
        for schema, files in (
            ("vendor.github-workflows", workflows),
            ("vendor.dependabot", [directory / "dependabot.yml"]),
        ):
            run("check-jsonschema", "--builtin-schema", schema, *files)
        run("zizmor", "--offline", "--quiet", "--min-severity=medium", directory)
        return f"{', '.join(file.name for file in workflows)}, dependabot.yml"

    def install(self, name: str) -> str:
        """Install the wheel and run a job with it."""
        home = installation.Home(self._directory / f"home of {name}")
        program = _INSTALLERS[name](home, self._wheel)
        installation.try_program(home, program, self.version)
        if "extras" in name:
            installation.try_extras(home, program)
        return "init, serve, submit --wait gave 144"

    def build_image(self) -> str:
        """Build the image, if a Docker daemon answers."""
        docker = shutil.which("docker")
        command = (docker or "docker", "info")
        if docker is None or subprocess.run(command, capture_output=True, check=False).returncode:
            return "not checked: no Docker here; tests/deploy build the image with Podman"
        run("docker", "build", "--build-arg", f"VERSION={self.version}", "--tag",
            "wasmdrop:release-check", self._tree)  # fmt: skip
        run("docker", "run", "--rm", "wasmdrop:release-check", "--version")
        return "built, and it starts"

    def _distributions(self) -> tuple[Path, Path]:
        return self._archive, self._wheel


def steps(check: Check) -> dict[str, Callable[[], str]]:
    """Return the steps in their order."""
    return {
        "clean clone": check.clone,
        "version": check.find_version,
        "workflow files": check.check_workflows,
        "build": check.build,
        "reproducible": check.build_again,
        "metadata": check.check_metadata,
        "contents": check.check_contents,
        "description": check.check_links,
        "bill of materials": check.write_bill,
        **{f"install by {name}": partial(check.install, name) for name in _INSTALLERS},
        "image": check.build_image,
    }


def main() -> int:
    """Run all steps; return an exit status."""
    with tempfile.TemporaryDirectory(prefix="wasmdrop-release-") as directory:
        check = Check(Path(directory), os.environ.get("VERSION", "").removeprefix("v"))
        for name, step in steps(check).items():
            started = time.monotonic()
            try:
                found = step()
            except (StepError, changelog.ChangelogError) as error:
                print(f"FAILED {name}: {error}\nNot ready for a release.")
                return 1
            print(f"ok     {name}: {found} ({time.monotonic() - started:.0f} s)", flush=True)
    kind = "release" if check.is_release else "development version, not a release"
    print(f"All steps passed: {check.version} ({kind}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
