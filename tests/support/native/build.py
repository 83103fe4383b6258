"""Build the native program as an installation does, with another compiler or other flags."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.require import require_tools

ROOT: Final = Path(__file__).parents[3]
SOURCES: Final = ROOT / "daemon/wasmdrop/sandbox/guest/native"

#: They find errors of memory and of arithmetic, and end the program then.
SANITIZERS: Final = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    # The address sanitizer does not see the functions that this checks.
    *("-g", "-U_FORTIFY_SOURCE"),
)


def built(directory: Path, compiler: str, *flags: str) -> Path:
    """Return the program, built below ``directory`` without a warning."""
    require_tools(compiler)
    done = subprocess.run(
        [sys.executable, "setup.py", "build_native", f"--build-lib={directory}", "--required"],
        cwd=ROOT,
        env=os.environ | {"CC": compiler, "CFLAGS": " ".join(("-Werror", *flags)), "LDFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory / "wasmdrop/sandbox/guest/native/zygote"
