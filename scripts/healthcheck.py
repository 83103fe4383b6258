"""The image's health check: request ``/healthz`` at the port of ``WASMDROP_HTTP``.

It is no command of ``wasmdrop``, because it runs every few seconds and must cost little.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

#: Seconds. Less than the health check's own timeout, so that the reason is printed.
TIMEOUT = 4


def main() -> int:
    """Return 0 if the daemon is alive or HTTP is off, else 1."""
    port = os.environ.get("WASMDROP_HTTP", "off").rpartition(":")[2]
    if not port.isdigit():
        return 0  # HTTP is off
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
