# build: componentize-py -d . componentize python -o python-py.wasm
"""Runs a Python script that comes with the job: CPython as a WASI 0.2 command.

The standard library is not at hand when a script runs: what it may import is what was imported
here when the component was built.
"""

import collections
import csv
import decimal
import itertools
import json
import math
import pathlib
import random
import re
import statistics
import sys
import traceback

from componentize_py_types import Err
from wit_world import exports

AT_HAND = (
    collections,
    csv,
    decimal,
    itertools,
    json,
    math,
    pathlib,
    random,
    re,
    statistics,
)


class Run(exports.Run):
    """The command."""

    def run(self) -> None:
        """Run the script that the first argument names; the others are its own."""
        del sys.argv[0]
        try:
            script = pathlib.Path(sys.argv[0])
            program = compile(script.read_text(), script, "exec")
            exec(program, {"__name__": "__main__"})  # noqa: S102 - what it is for; its sandbox is wasm
        except Exception:  # noqa: BLE001 - a script may raise anything
            traceback.print_exc()
            raise Err(None) from None
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
