"""The entry point. It imports the rest when it runs, so that Ctrl-C is quiet from the start."""

import os
import signal
import sys
from collections.abc import Sequence

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    try:
        if "_ARGCOMPLETE" in os.environ and arguments is None:
            from wasmdrop.cli.completing import complete  # noqa: PLC0415

            complete()
        from wasmdrop.cli.command_line import run  # noqa: PLC0415

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        # Python would print a traceback if Ctrl-C came while it ends. It may be ignored, though.
        if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
