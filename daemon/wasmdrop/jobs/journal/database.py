"""The journal's file: its schema, how it is opened, and how a job is encoded.

Guarantees: a file of an earlier version is migrated in one transaction or left as it was; one of a
later version is not changed; a damaged one is kept under another name.
"""

import json
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import structlog

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal import awaited_modules
from wasmdrop.protocol.errors import StorageError

_log = structlog.get_logger()

#: The journal's file in the state directory.
JOURNAL_NAME: Final = "journal.sqlite"

#: The final states, for a condition in SQL.
FINAL: Final = "({})".format(", ".join(f"'{state}'" for state in JobState if state.is_final))

#: Each migrates a file from the version that is its index to the next one. A released entry never
#: changes.
_MIGRATIONS: Final = (
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        slot BLOB NOT NULL,
        state TEXT NOT NULL,
        code TEXT,
        job TEXT NOT NULL,
        input BLOB,
        package BLOB
    );
    CREATE INDEX jobs_open ON jobs (seq) WHERE state NOT IN ('delivered', 'discarded');
    CREATE INDEX jobs_slot ON jobs (slot, seq);
    CREATE INDEX jobs_code ON jobs (code) WHERE code IS NOT NULL AND code != 'ok';
    CREATE TABLE taken (path BLOB PRIMARY KEY, version BLOB NOT NULL) WITHOUT ROWID;
    """,
    # When a job changed last, in an order without ties, and why it stays in its state. Version 1
    # has only the time of the end.
    """
    ALTER TABLE jobs ADD COLUMN changed_ns INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN note TEXT;
    UPDATE jobs SET changed_ns = coalesce(
        json_extract(job, '$.finished_at_ns'), json_extract(job, '$.dropped_at_ns'));
    CREATE INDEX jobs_changed ON jobs (changed_ns);
    """,
    # Indexes, so that queries for each job or event do not read whole tables: slots that await a
    # module, results that could not be delivered (their size, and the directory of their output
    # files: NULL is not known, empty is none), and the oldest finished jobs.
    """
    CREATE TABLE awaiting (
        path BLOB PRIMARY KEY,
        module BLOB NOT NULL,
        job TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX awaiting_module ON awaiting (module, path);
    INSERT INTO awaiting SELECT input_path_of(job), awaited_module(job), id FROM jobs AS j
        WHERE code IN ('module-missing', 'invalid-module', 'link-error', 'compile-limit')
        AND seq = (SELECT max(seq) FROM jobs WHERE slot = j.slot)
        AND awaited_module(job) IS NOT NULL
        AND EXISTS (SELECT 1 FROM taken WHERE path = input_path_of(j.job));
    ALTER TABLE jobs ADD COLUMN kept_bytes INTEGER;
    ALTER TABLE jobs ADD COLUMN kept_output BLOB;
    UPDATE jobs SET kept_bytes = length(package) WHERE package IS NOT NULL;
    CREATE INDEX jobs_undelivered ON jobs (seq) WHERE kept_bytes IS NOT NULL;
    CREATE INDEX jobs_final ON jobs (changed_ns) WHERE state IN ('delivered', 'discarded');
    CREATE INDEX jobs_with_input ON jobs (changed_ns)
        WHERE state IN ('delivered', 'discarded') AND input IS NOT NULL;
    """,
    # Markers that the completion hook has not taken yet.
    """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        job TEXT NOT NULL UNIQUE,
        slot BLOB NOT NULL,
        path BLOB NOT NULL,
        marker BLOB NOT NULL,
        created_ns INTEGER NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0,
        due_ns INTEGER NOT NULL
    );
    CREATE INDEX events_due ON events (due_ns);
    CREATE INDEX events_created ON events (created_ns);
    """,
)
SCHEMA_VERSION: Final = len(_MIGRATIONS)

#: SQLite's codes for a file that is damaged, or no database.
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: Size that SQLite truncates the write-ahead log to after a burst made it larger, in bytes.
_LOG_BYTES: Final = 8 * 1024 * 1024

_INCREMENTAL: Final = 2


class _DamagedError(StorageError):
    """The file is no valid journal."""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the journal for its one writer; create it if there is none.

    A damaged file is renamed, with its log, and a new one is created. Raises ``StorageError`` for a
    file of a later version, and if the file can't be opened.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _open(path)
    except _DamagedError as damage:
        aside = _set_aside(path)
        _log.warning("journal-set-aside", path=str(path), now=str(aside), error=str(damage))
    return _open(path)


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the journal read-only, whether a daemon is using it or not.

    Raises ``sqlite3.Error``.
    """
    # Immutable, because SQLite would create log files beside a journal that no process has open. If
    # a daemon runs, or was killed, they exist and hold the newest writes.
    has_log = path.with_name(f"{path.name}-wal").exists()
    mode = "mode=ro" if has_log else "mode=ro&immutable=1"
    address = f"file:{quote(os.fsencode(path))}?{mode}"
    return sqlite3.connect(address, uri=True, isolation_level=None)


def encode_job(job: Job) -> str:
    """Return the job as JSON."""
    try:
        return msgspec.json.encode(job).decode()
    except UnicodeEncodeError:
        # A name that is not UTF-8: msgspec refuses it, the json module escapes it.
        return json.dumps(msgspec.to_builtins(job), separators=(",", ":"))


def decode_job(text: str) -> Job:
    """Return the job that was encoded as ``text``."""
    return msgspec.convert(json.loads(text), Job)


def _input_path_of(text: str) -> bytes:
    """Return the path of the input of an encoded job, as in ``taken``."""
    return os.fsencode(decode_job(text).slot.input_path)


def _awaited_module(text: str) -> bytes | None:
    """Return the key of the module that an encoded job is rerun with."""
    return awaited_modules.key_of(decode_job(text))


def _open(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: the journal can't be opened: {error}") from error
    try:
        _migrate(path, connection)
    except sqlite3.Error as error:
        connection.close()
        # Errors of the sqlite3 module itself have no code.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
            raise _DamagedError(str(error)) from error
        raise StorageError(f"{path}: the journal can't be opened: {error}") from error
    except StorageError:
        connection.close()
        raise
    return connection


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"{path}: the journal is of version {version}, and this wasmdrop knows versions up to"
            f" {SCHEMA_VERSION}; run the wasmdrop that wrote it, or set WASMDROP_STATE_DIR"
        )
    # Reads the whole file, half a second for a million jobs: a writer must not find damage later.
    (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise _DamagedError(finding)
    (vacuum,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if vacuum != _INCREMENTAL:
        connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
        try:
            connection.execute("VACUUM")  # applies the setting to an existing file
        except sqlite3.OperationalError as error:
            # It needs as much disk space again; that is no reason not to start.
            _log.warning("journal-compaction-failed", path=str(path), error=str(error))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    # FULL syncs the log at each commit: results are published after a commit.
    connection.execute("PRAGMA synchronous = FULL")
    if version < SCHEMA_VERSION:
        # Used by the migrations only.
        connection.create_function("input_path_of", 1, _input_path_of, deterministic=True)
        connection.create_function("awaited_module", 1, _awaited_module, deterministic=True)
        steps = "".join(_MIGRATIONS[version:])
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if version:
            _log.info("journal-migrated", path=str(path), version=version, now=SCHEMA_VERSION)


def _set_aside(path: Path) -> Path:
    """Rename a damaged journal and its log, which a new file would replay."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        log = path.with_name(path.name + suffix)
        if log.exists():
            log.rename(aside.with_name(aside.name + suffix))
    return aside
