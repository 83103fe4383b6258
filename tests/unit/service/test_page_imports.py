"""A daemon without HTTP or without the page imports nothing of them."""

import subprocess
import sys

#: Prints the modules that the daemon's own module loads of the page and its server.
LOADED: str = """
import sys
import wasmdrop.service.daemon
print([name for name in sys.modules if name.startswith(("wasmdrop.page", "h11"))
       or name in ("wasmdrop.web.server", "wasmdrop.web.connection", "wasmdrop.service.page")])
"""


def test_daemon_without_the_page_imports_nothing_of_it() -> None:
    """Nor the parser of requests, which HTTP needs."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
