"""Suffixes: what the names of a slot's results end in, after its stem."""

from typing import Final

__all__ = ["MARKER_SUFFIX", "OUTPUT_SUFFIX", "RESULT_SUFFIXES"]

#: The completion marker.
MARKER_SUFFIX: Final = ".done"

#: The directory of what a program left.
OUTPUT_SUFFIX: Final = ".output"

#: Every result file: what an earlier job left and a later one does not write must go.
RESULT_SUFFIXES: Final = (".json", ".txt", ".stdout", ".stderr")
