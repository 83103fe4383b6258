"""A command on a pseudoterminal of a given size, and what its screen shows."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.support.daemon import wait_until

#: Terminal control sequences (ECMA-48): those with parameters, and those of one letter.
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>78]")

#: Where the live table begins to draw again: the first line of the screen.
_HOME: Final = "\x1b[H"

#: Leaves the alternate screen.
_LEAVE: Final = "\x1b[?1049l"


class Terminal:
    """A terminal with one command."""

    def __init__(
        self, line: Sequence[str], variables: Mapping[str, str], columns: int, rows: int
    ) -> None:
        self._ours, self._its = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            line,
            env={**variables, "TERM": "xterm-256color"},
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
        )
        self.written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def screen(self) -> str:
        """Return what was drawn last, without control sequences."""
        return _CONTROL.sub("", self.written.decode("utf-8", "replace").rpartition(_HOME)[2])

    def wait_for(self, *texts: str) -> str:
        """Wait until the screen shows all these; return it."""

        def look() -> str | None:
            screen = self.screen()
            return screen if all(text in screen for text in texts) else None

        return wait_until(look, f"{texts} on the screen, which shows {self.screen()!r}")

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; return the exit status, and the text left after the alternate screen."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        os.close(self._its)
        self._reader.join(60)
        os.close(self._ours)
        whole = self.written.decode("utf-8", "replace")
        return status, _CONTROL.sub("", whole.rpartition(_LEAVE)[2])

    def _read(self) -> None:
        # Linux reports that the other side has closed as an error.
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65536):
                self.written += data


@contextlib.contextmanager
def on_terminal_of(
    line: Sequence[str], variables: Mapping[str, str], columns: int = 80, rows: int = 24
) -> Iterator[Terminal]:
    """Run a command on a terminal for a block; :meth:`Terminal.end` ends it."""
    terminal = Terminal(line, variables, columns, rows)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait(60)
