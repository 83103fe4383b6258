#!/usr/bin/env python3
"""Measure wasmdrop against scripts that do the same; see README.md beside this file.

python benchmarks/latency.py [--drops N] [--burst N] [--json FILE] [--dir DIR]
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(importlib.import_module("benchmarks.suite").main())
