"""``wasmdrop serve`` whose event loop hangs from SIGWINCH to SIGURG, which it leaves alone."""

import signal
import sys

from wasmdrop.cli.main import main


def hang(_signal: int, _frame: object) -> None:
    """Block the main thread, which runs the event loop, until the other signal."""
    signal.sigwait({signal.SIGURG})


if __name__ == "__main__":
    signal.signal(signal.SIGWINCH, hang)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
    sys.exit(main(["serve"]))
