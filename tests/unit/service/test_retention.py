"""Retention of files: nothing of it is imported unless it is on."""

import subprocess
import sys
from typing import Final

_PRINT: Final = """
import sys, wasmdrop.service.daemon
print(*sorted(name for name in sys.modules if name.startswith("wasmdrop.retention.")))
"""


def test_daemon_imports_only_the_retention_of_its_journal() -> None:
    """Moving inputs and removing slots are imported only if they are on."""
    command = [sys.executable, "-c", _PRINT]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["wasmdrop.retention.gone_files", "wasmdrop.retention.journal"]
