"""The image's health check: asks ``/healthz`` where ``WASMDROP_HTTP`` says; exit status 0 or 1.

A file and not a command of ``wasmdrop``: it must cost little, as it runs every few seconds.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

#: Seconds; less than the health check's own limit, so that the reason is shown.
TIMEOUT = 4


def main() -> int:
    """Ask once."""
    port = os.environ.get("WASMDROP_HTTP", "off").rpartition(":")[2]
    if not port.isdigit():
        return 0  # switched off: nobody to ask
    connection = HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        sys.stdout.write(answer.read().decode())
    except (OSError, HTTPException) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0 if answer.status == 200 else 1  # noqa: PLR2004 - OK, RFC 9110


if __name__ == "__main__":
    sys.exit(main())
