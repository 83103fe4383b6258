"""The standard output and standard error of one job: two anonymous files in memory.

The child writes to them and the daemon reads them, so they survive a child that is killed.
"""

import os


class CapturedOutput:
    """Two open files. Raises ``OSError`` if they cannot be created."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        """Descriptors of standard output and standard error; empty after :meth:`close`."""
        try:
            for name in ("stdout", "stderr"):
                self.fds.append(os.memfd_create(name))
        except OSError:
            self.close()
            raise

    def size_bytes(self) -> int:
        """Return the size of both together."""
        return sum(os.fstat(fd).st_size for fd in self.fds)

    def read(self, max_bytes: int) -> tuple[bytes, bytes]:
        """Return the content of both, at most ``max_bytes`` together."""
        # The child keeps to this limit, unless its guest has taken it over.
        stdout = _content(self.fds[0], max_bytes)
        return stdout, _content(self.fds[1], max_bytes - len(stdout))

    def close(self) -> None:
        """Close both. May be called again."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def _content(fd: int, max_bytes: int) -> bytes:
    size = min(os.fstat(fd).st_size, max_bytes)
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
