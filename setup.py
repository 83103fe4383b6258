"""Build the native program with the package if there is a C compiler; pyproject.toml has the rest.

The package's description on an index page is the README, with links to the files of its version.
A source distribution has the same bytes wherever it is built, if ``SOURCE_DATE_EPOCH`` is set.

``build_native`` is a step of every installation, wheel and editable ones included. Without a
compiler, or if it fails, the package is complete without the program, and jobs run in the Python
guest. For developers::

    CC=clang CFLAGS='-g -Werror' python setup.py build_native --inplace --required
"""

import gzip
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any, ClassVar, Final

from setuptools import Command, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

PACKAGE_ROOT: Final = Path("daemon")
NATIVE: Final = Path("wasmdrop/sandbox/guest/native")
PROGRAM: Final = NATIVE / "zygote"

COMPILERS: Final = ("cc", "gcc", "clang")
# Not -Werror: a newer compiler that warns of more must not cost an installation its program. The
# tests compile with -Werror.
FLAGS: Final = (
    *("-std=c11", "-O2", "-Wall", "-Wextra", "-fPIE", "-pie"),
    *("-fstack-protector-strong", "-fstack-clash-protection"),
    # Some distributions define it for all programs, and a second definition is a warning.
    *("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
    *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"),
)


class BuildNative(Command):
    """Compile the native program."""

    description = "compile the native program"
    user_options: ClassVar = [
        ("build-lib=", "b", "directory of the built package"),
        ("inplace", "i", "write the program beside its sources"),
        ("required", None, "fail without the program"),
    ]
    boolean_options: ClassVar = ["inplace", "required"]

    def initialize_options(self) -> None:
        """Set the defaults."""
        self.build_lib = ""
        self.inplace = False
        self.required = False
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take what was not given from the whole build."""
        if not self.build_lib:
            self.build_lib = self.get_finalized_command("build").build_lib

    @property
    def program(self) -> Path:
        """The path of the program."""
        is_inplace = self.editable_mode or self.inplace
        return (PACKAGE_ROOT if is_inplace else Path(self.build_lib)) / PROGRAM

    def run(self) -> None:
        """Compile and link the program; without success leave none, not even an older one."""
        self.program.unlink(missing_ok=True)
        self.program.parent.mkdir(parents=True, exist_ok=True)
        installed = next(filter(shutil.which, COMPILERS), COMPILERS[0])
        compiler = shlex.split(os.environ.get("CC") or installed)
        try:
            subprocess.run([*compiler, *self._arguments()], check=True)
        except OSError as error:
            self._fail(f"no C compiler ({compiler[0]}: {error.strerror})")
        except subprocess.CalledProcessError as error:
            self._fail(f"{compiler[0]} failed with status {error.returncode}")

    def _arguments(self) -> list[str]:
        before, after = (
            [flag for name in names for flag in shlex.split(os.environ.get(name, ""))]
            for names in (("CPPFLAGS", "CFLAGS"), ("LDFLAGS",))
        )
        sources = [name for name in self.get_source_files() if name.endswith(".c")]
        return [*FLAGS, *before, "-o", str(self.program), *sources, *after, "-ldl"]

    def _fail(self, reason: str) -> None:
        if self.required:
            raise CompileError(f"the native program was not built: {reason}")
        self.warn(f"the native program was not built, jobs will run in the Python guest: {reason}")

    def get_source_files(self) -> list[str]:
        """Return the sources, which belong into source distributions."""
        return sorted(map(str, (PACKAGE_ROOT / NATIVE).glob("*.[ch]")))

    def get_outputs(self) -> list[str]:
        """Return the program as it is in the built package."""
        return [str(Path(self.build_lib) / PROGRAM)]

    def get_output_mapping(self) -> dict[str, str]:
        """Return no file to link: an editable installation has the program in the source tree."""
        return {}


class Build(build):
    """The standard build, followed by the native program."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_native", None)]


class BdistWheel(bdist_wheel):
    """A wheel for every Python, and for one platform if it has the program."""

    def run(self) -> None:
        """Build the program first: the kind of wheel depends on it."""
        native = self.get_finalized_command("build_native")
        self.run_command("build_native")
        if native.program.exists():
            self.root_is_pure = False
            # The installation into the wheel asks this where the package belongs.
            self.distribution.has_ext_modules = lambda: True
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag of the file name."""
        _python, _abi, platform = super().get_tag()
        return "py3", "none", platform


#: Targets of links in the README that are files of the repository: no URLs, no sections.
_RELATIVE_LINK: Final = re.compile(r"(!?)(\[[^][]*\])\(([^)#:\s][^):\s]*)\)")


def index_page(readme: str, repository: str, version: str) -> str:
    """Return the README for an index page, where relative links lead nowhere."""
    ref = f"v{version}" if re.fullmatch(r"[\d.]+", version) else "main"

    def absolute(link: "re.Match[str]") -> str:
        image, text, target = link.groups()
        return f"{image}{text}({repository}/{'raw' if image else 'blob'}/{ref}/{target})"

    return _RELATIVE_LINK.sub(absolute, readme)


class EggInfo(egg_info):
    """Metadata, with the README as it must be on an index page."""

    def run(self) -> None:
        """Rewrite the links now: only now is the version known."""
        data = self.distribution.metadata
        data.long_description = index_page(
            data.long_description, data.project_urls["Source"], data.version
        )
        super().run()


class Sdist(sdist):
    """A source distribution whose bytes depend on the sources only."""

    def make_archive(self, base_name: str, format: str, *args: Any, **options: Any) -> str:  # noqa: A002
        """Pack the tree that ``base_dir`` names, sorted, without times, owners and umask."""
        if format != "gztar":
            return super().make_archive(base_name, format, *args, **options)
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())

        def normalized(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            return member

        tree = Path(options["base_dir"])
        name = f"{base_name}.tar.gz"
        with (
            Path(name).open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in (tree, *sorted(tree.rglob("*"))):
                archive.add(path, recursive=False, filter=normalized)
        return name


if __name__ == "__main__":
    setup(
        cmdclass={
            "bdist_wheel": BdistWheel,
            "build": Build,
            "build_native": BuildNative,
            "egg_info": EggInfo,
            "sdist": Sdist,
        },
        long_description=Path("README.md").read_text(encoding="utf-8"),
        long_description_content_type="text/markdown",
    )
