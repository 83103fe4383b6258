"""Finds the module of a job: its file and its digest.

Digests are remembered by version, so that an unchanged module is not read again for each job.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from wasmdrop.intake.layout import Layout, RootedPath
from wasmdrop.intake.untrusted_files import open_file
from wasmdrop.protocol.errors import RefusedError, StorageError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import DirectoryIdentity, FileVersion, PinnedModule, Slot
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import DanglingLinkError, Links

DIGEST_PREFIX: Final = "sha256:"

#: Most digests remembered; each takes about 300 bytes.
_MAX_DIGESTS: Final = 4096

#: A file that changed this recently may change again within the same tick of the kernel's clock,
#: and so without a new version: its digest is not remembered. Ticks are at most 10 ms (HZ=100).
_CLOCK_TICK_NS: Final = 50_000_000

_Version = tuple[int, int, int, int, int]


class ModuleFinder:
    """Finds modules in the directories of ``layout``. Thread-safe.

    ``ingest`` stores a copy of an open module and returns its digest. ``is_kept`` says whether
    there is a copy for a digest, ``size_of`` returns the copy's size in bytes, or None.
    """

    def __init__(
        self,
        layout: Layout,
        max_bytes: int,
        ingest: Callable[[int], str],
        is_kept: Callable[[str], bool],
        size_of: Callable[[str], int | None],
    ) -> None:
        self._layout = layout
        self._max_bytes = max_bytes
        self._ingest = ingest
        self._is_kept = is_kept
        self._size_of = size_of
        self._digests: OrderedDict[_Version, str] = OrderedDict()
        self._pinned: dict[tuple[str, _Version], PinnedModule] = {}
        """Shared values: a hundred thousand jobs of one module hold one of them."""
        self._lock = threading.Lock()

    def find(self, slot: Slot, reference: str | None) -> PinnedModule | None:
        """Return the module for a job of ``slot``; None if it is missing.

        ``reference`` is the input's ``module``. Raises ``RefusedError`` if the module is no regular
        file, and ``OSError`` if storage fails.
        """
        return self._find(slot, reference, only_known=False)

    def find_known(self, slot: Slot, reference: str | None) -> PinnedModule | None:
        """Return what :meth:`find` does if that takes no reading of a module, else None."""
        return self._find(slot, reference, only_known=True)

    def _find(self, slot: Slot, reference: str | None, *, only_known: bool) -> PinnedModule | None:
        if reference is not None and reference.startswith(DIGEST_PREFIX):
            sha256 = reference.removeprefix(DIGEST_PREFIX).lower()
            size_bytes = self._size_of(sha256)
            return None if size_bytes is None else PinnedModule(reference, sha256, size_bytes)
        refusal: RefusedError | None = None
        for file in self._layout.module_places(slot, reference):
            try:
                is_own = os.path.dirname(file.path) == os.path.dirname(slot.input_path)  # noqa: PTH120
                return self._pin(file, only_known, slot.found_in if is_own else None)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except RefusedError as error:
                if reference is None:
                    raise  # a bad module of the slot's own does not fall back to the default one
                refusal = refusal or error  # a directory `fib` does not hide `fib.wasm`
        if refusal is not None:
            raise refusal
        return None

    def learn(self, path: str) -> PinnedModule | None:
        """Read a dropped module, so that jobs find its digest known and may refer to it.

        Return None if it can't be read: the job that needs it reports the error.
        """
        try:
            return self._pin(self._layout.rooted(path), only_known=False)
        except (OSError, RefusedError, StorageError):
            return None

    def _pin(
        self, file: RootedPath, only_known: bool, expected: DirectoryIdentity | None = None
    ) -> PinnedModule | None:
        """Return the module at ``file``, in the ``expected`` directory if one is given."""
        known = self._known(file)
        if known is not None:
            return known
        opening = open_file(file, self._max_bytes, Code.INVALID_MODULE, Links.ANY)
        with opening as (fd, status, found_in):
            if expected is not None and found_in is not None and not found_in.may_be(expected):
                raise FileNotFoundError  # another user replaced the slot's directory
            version, size_bytes = _version(status), status.st_size
            sha256 = self._digests.get(version)
            # The copy of a module that was unused for long may be evicted, and is made again.
            if sha256 is None or not self._is_kept(sha256):
                if only_known:
                    return None
                sha256 = self._ingest(fd)
                if _version(os.fstat(fd)) == version:
                    self._remember(version, sha256)
                else:  # a file that is still being written grew while it was read
                    size_bytes = self._size_of(sha256) or size_bytes
        pinned = PinnedModule(file.path, sha256, size_bytes, FileVersion.of(status))
        if version not in self._digests:
            return pinned
        with self._lock:
            if len(self._pinned) > _MAX_DIGESTS:
                self._pinned.clear()
            return self._pinned.setdefault((pinned.path, version), pinned)

    def _known(self, file: RootedPath) -> PinnedModule | None:
        """Return the module at ``file`` if an earlier job found this version, without opening it.

        Raises ``FileNotFoundError`` if nothing is there.
        """
        try:
            version = _version(openat2.status(file.root, file.relative))
        except DanglingLinkError:
            return None
        except FileNotFoundError:
            raise
        except OSError:
            return None  # opening it reports the error
        pinned = self._pinned.get((file.path, version))
        return pinned if pinned is not None and self._is_kept(pinned.sha256) else None

    def _remember(self, version: _Version, sha256: str) -> None:
        if time.time_ns() - version[4] < _CLOCK_TICK_NS:
            return
        with self._lock:
            self._digests[version] = sha256
            if len(self._digests) > _MAX_DIGESTS:
                self._digests.popitem(last=False)


def _version(status: os.stat_result) -> _Version:
    """Return more than a drop's version: a producer can't set the change time back."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
