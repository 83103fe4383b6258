"""Paths of the examples and of the modules that are built from them."""

from pathlib import Path
from typing import Final

EXAMPLES: Final = Path(__file__).parents[2] / "examples"

PROGRAMS: Final = EXAMPLES / "build" / "programs"
