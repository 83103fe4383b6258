"""The gateway of the examples, running."""

import contextlib
import threading
from collections.abc import Iterator

from examples.relayer.gateway import Gateway


@contextlib.contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    """Serve in a thread for a block."""
    with gateway:
        thread = threading.Thread(target=gateway.serve_forever)
        thread.start()
        try:
            yield gateway
        finally:
            gateway.shutdown()
            thread.join()
