"""The demonstration of a fleet, ``make demo-fleet``: it ends well, and says what happened.

It takes 15 s, because a lease of a killed worker ends after 10 s.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.daemon import environment

SCRIPT: Final = Path(__file__).parents[2] / "scripts/demo_fleet.py"


def test_demo_of_a_fleet_has_every_result_although_a_worker_is_killed() -> None:
    """Both workers ran jobs, and some jobs were leased to both."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"(?m)^ {4}(\S.*?) +([0-9]+)$", done.stdout))
    assert counts["jobs"] == counts["right results"] == "200"
    assert int(counts["worker-a"]) + int(counts["worker-b"]) == 200
    assert int(counts["leased again"]) > 0
