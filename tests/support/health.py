"""The health checks of a daemon whose port the kernel chose."""

import urllib.error
import urllib.request

from tests.support.daemon import Daemon


def address(daemon: Daemon) -> tuple[str, int]:
    """Return its HTTP address."""
    host, _, port = daemon.events("http-listening")[-1]["address"].rpartition(":")
    return host, int(port)


def get(daemon: Daemon, path: str) -> tuple[int, str]:
    """Return the status and the body of a GET."""
    host, port = address(daemon)
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
