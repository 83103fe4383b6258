"""The directory of ``submit --save``: a copy of a job's result files."""

from pathlib import Path

from wasmdrop.client import Result
from wasmdrop.protocol.errors import SettingsError, StorageError
from wasmdrop.protocol.slot import OUTPUT_SUFFIX, RECEIPT_SUFFIX


def prepare(directory: str) -> None:
    """Make the directory. Raises ``SettingsError`` if that fails, or if it is not empty."""
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_empty = not any(path.iterdir())
    except OSError as error:
        raise SettingsError(f"--save: {error.filename}: {error.strerror}") from None
    if not is_empty:
        raise SettingsError(f"--save: {directory}: expected a new or an empty directory")


def save(result: Result, directory: str) -> None:
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
    try:
        for name, data in files.items():
            # The marker's paths were checked when it was read: none leads out of the directory.
            path = Path(directory, f"result{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"--save: {error.filename}: {error.strerror}") from None
