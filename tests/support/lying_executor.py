"""An executor that has jobs run by an honest daemon and changes the results."""

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.daemon import Daemon, drop
from wasmdrop.protocol.slot import MARKER_SUFFIX
from wasmdrop.unixfs.cid import raw_cid

#: Gets the content of each result file by its name, and returns what the executor delivers.
Lie = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]

_GLANCE_SECONDS = 0.005


@contextlib.contextmanager
def lying_executor(
    shared: Path,
    daemon: Daemon,
    lie: Lie,
    *,
    fits_content_id: bool = True,
    marker: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Path]:
    """Serve the jobs of ``shared`` that have a directory of their own; return ``shared``.

    The marker has the sizes and digests of what is delivered, and its content ids unless
    ``fits_content_id`` is False. ``marker`` has other keys of the marker to change.
    """
    shared.mkdir()
    is_over = threading.Event()

    def serve() -> None:
        served = set()
        while not is_over.wait(_GLANCE_SECONDS):
            for given in shared.glob("*/input.json"):
                if given.parent.name not in served:
                    served.add(given.parent.name)
                    _serve(given, daemon, lie, marker, fits_content_id=fits_content_id)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield shared
    finally:
        is_over.set()
        thread.join()


def _serve(
    given: Path, daemon: Daemon, lie: Lie, changes: Mapping[str, Any], *, fits_content_id: bool
) -> None:
    own = daemon.shared / f"lying-{given.parent.name}"
    own.mkdir()
    shutil.copy(given.with_name("module.wasm"), own)
    slot = f"{own.name}/input.json"
    marker = daemon.submit(slot, given.read_bytes())
    true = {name: (own / name).read_bytes() for name in marker["files"]}
    for name, content in lie(true).items():
        mark = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        if fits_content_id:
            mark["cid"] = raw_cid(hashlib.sha256(content).hexdigest())
        marker["files"][name] |= mark
        given.with_name(name).write_bytes(content)
    shutil.rmtree(own)
    drop(given.with_name(f"result{MARKER_SUFFIX}"), {**marker, **changes})
