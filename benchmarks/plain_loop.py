"""A contender: a loop that lists the directory and starts a Python for each input.

python plain_loop.py MODULE_DIR SHARED_DIR
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PAUSE_SECONDS = 0.001

modules, shared = (Path(word) for word in sys.argv[1:])
one_job = Path(__file__).with_name("one_job.py")


def run(path: Path) -> None:
    """Run one input and remove it."""
    stem = path.with_name(path.stem.replace("input", "result", 1))
    subprocess.run([sys.executable, one_job, modules, path, stem], check=True)
    path.unlink()


with ThreadPoolExecutor(os.cpu_count()) as workers:
    while True:
        for _done in workers.map(run, shared.glob("input*.json")):
            pass
        time.sleep(PAUSE_SECONDS)
