"""The directory of ``submit --save``: a copy of a job's result files."""

import contextlib
import os
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
        """Write the files, with the names of the slot ``input.json``. Raises ``StorageError``."""
        files = {".json": result.line + b"\n", ".txt": result.text}
        files |= {f"{OUTPUT_SUFFIX}/{path}": data for path, data in result.output.items()}
        for suffix, data in (
            (".stdout", result.stdout),
            (".stderr", result.stderr),
            (RECEIPT_SUFFIX, result.receipt),
        ):
            if data is not None:
                files[suffix] = data
        for suffix, data in files.items():
            name = f"result{suffix}"
            try:
                self._write(PurePosixPath(name), data)
            except OSError as error:
                where = f"{self._directory}/{name}"
                raise StorageError(f"--save: {where}: {error.strerror}") from None

    def _write(self, path: PurePosixPath, data: bytes) -> None:
        # The marker's paths were checked when it was read: none has "..".
        above = os.dup(self._fd)
        try:
            for part in path.parent.parts:
                with contextlib.suppress(FileExistsError):  # an earlier file made it
                    os.mkdir(part, dir_fd=above)
                below = os.open(part, DIRECTORY_FLAGS, dir_fd=above)
                os.close(above)
                above = below
            fd = os.open(path.name, CREATE_FLAGS, 0o666, dir_fd=above)
            try:
                write_all(fd, data)
            finally:
                os.close(fd)
        finally:
            os.close(above)
