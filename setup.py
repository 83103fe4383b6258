"""Build the native program with the package if there is a C compiler; pyproject.toml has the rest.

``build_native`` is a step of every installation, wheel and editable ones included. Without a
compiler, or if it fails, the package is complete without the program, and jobs run in the Python
guest. For developers::

    CC=clang CFLAGS='-g -Werror' python setup.py build_native --inplace --required
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar, Final

from setuptools import Command, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
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


if __name__ == "__main__":
    setup(cmdclass={"bdist_wheel": BdistWheel, "build": Build, "build_native": BuildNative})
