"""The directory of ``submit --save``: a copy of a job's result files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from wasmdrop.client import Result
from wasmdrop.protocol.errors import SettingsError, StorageError
from wasmdrop.protocol.slot import OUTPUT_SUFFIX, RECEIPT_SUFFIX
from wasmdrop.system.descriptors import CREATE_FLAGS, DIRECTORY_FLAGS, write_all


class SaveDirectory:
    """A directory that was empty, held open.

    While the job runs, another user may move it or put links into it. Files are created in the open
    directory, no link is followed, and no file is replaced: root is not led elsewhere.
    """

    def __init__(self, directory: str) -> None:
        """Make it. Raises ``SettingsError`` if that fails, or if it is not empty."""
        self._directory = directory
        try:
            self._is_new = not Path(directory).exists()
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with os.scandir(self._fd) as entries:
                is_empty = next(entries, None) is None
        except ValueError:
            raise SettingsError(f"--save: {directory}: no directory can have this name") from None
        except OSError as error:
            raise SettingsError(f"--save: {error.filename}: {error.strerror}") from None
        if not is_empty:
            raise SettingsError(f"--save: {directory}: expected a new or an empty directory")

    def save(self, result: Result) -> None:
        """Write the files, with the names of the slot ``input.json``. Raises ``StorageError``.

        They are durable when this returns: ``--rm`` then removes the job's own.
        """
        files = {".json": result.line + b"\n", ".txt": result.text}
        files |= {f"{OUTPUT_SUFFIX}/{path}": data for path, data in result.output.items()}
        for suffix, data in (
            (".stdout", result.stdout),
            (".stderr", result.stderr),
            (RECEIPT_SUFFIX, result.receipt),
        ):
            if data is not None:
                files[suffix] = data
        directories = {PurePosixPath()} | ({PurePosixPath("..")} if self._is_new else set())
        for suffix, data in files.items():
            path = PurePosixPath(f"result{suffix}")
            try:
                self._write(path, data)
            except OSError as error:
                raise self._failed(path, error) from None
            directories.update(path.parents)
        for path in directories:
            try:
                with self._opened(path) as fd:
                    os.fsync(fd)
            except OSError as error:
                raise self._failed(path, error) from None

    def _failed(self, path: PurePosixPath, error: OSError) -> StorageError:
        return StorageError(f"--save: {self._directory}/{path}: {error.strerror}")

    def _write(self, path: PurePosixPath, data: bytes) -> None:
        with self._opened(path.parent) as directory:
            fd = os.open(path.name, CREATE_FLAGS, 0o666, dir_fd=directory)
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def _opened(self, path: PurePosixPath) -> Iterator[int]:
        """Open a directory below, which is created if there is none."""
        fd = os.dup(self._fd)
        try:
            # The marker's paths were checked when it was read: none has "..".
            for part in path.parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
                below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)
