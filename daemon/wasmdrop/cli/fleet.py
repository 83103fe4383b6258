"""``wasmdrop fleet``: make keys and a server's configuration, make streams, show what runs."""

import argparse
import asyncio
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wasmdrop import settings
from wasmdrop.cli.named_files import create_file, read_named_file
from wasmdrop.cli.setting_flags import add_config_flag, add_flags, given_flags
from wasmdrop.cli.standard_streams import say
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.runtime_versions import RuntimeVersions, own_versions
from wasmdrop.protocol.text import one_line
from wasmdrop.service import log
from wasmdrop.settings import Settings
from wasmdrop.system.extras import FLEET

if TYPE_CHECKING:
    from wasmdrop.fleet.admin.server_config import PublicKeys
    from wasmdrop.fleet.admin.setup import Plan
    from wasmdrop.fleet.admin.status import FleetStatus
    from wasmdrop.fleet.transport.connection import FleetConnection

_REFUSED: Final = 1

#: How long servers may take to be reached, and heartbeats to come, in seconds.
_CONNECT_SECONDS: Final = 15.0
_LISTEN_SECONDS: Final = 6.0

_MAX_SEED_BYTES: Final = 1024
_MAX_MB: Final = 1 << 30
_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SIZES: Final = ("jobs", "outcomes", "modules", "inputs", "outputs")
_CONNECTION: Final = ("fleet", "fleet_key", "fleet_ca", "fleet_security")

_CONFIG: Final = """\
Prints the configuration of a NATS server (2.14.3 or later) with an account for each daemon and
each pool of workers, which have no more than their rights. Makes the missing keys in the
directory DIR, with mode 0600, and keeps those that are there: admin.nk for `wasmdrop fleet
init`, daemon-NAME.nk and pool-NAME.nk for WASMDROP_FLEET_KEY of a daemon and of all workers of a
pool. With --worker, one worker has worker-POOL.NAME.nk instead: workers that share a key can read
each other's jobs. It needs no server.
"""

_CONFIG_EPILOG: Final = """\
The server's TLS certificate and its key are yours; the server reads them from the two paths.
Each of several servers needs a `server_name` and a `cluster` block in addition.

Example:
  wasmdrop fleet config --keys keys --daemon host1 --pool default >nats.conf
"""

_INIT: Final = """\
Makes the streams and consumers that the fleet needs, with the key of the administrator. What is
there already stays, or is changed to what the options say. Prints each with its change.
"""

_INIT_EPILOG: Final = """\
The server reserves the size of each stream. Without a size, a new stream has 256 MiB for the
jobs of a pool, 1024 for modules, and for each daemon 256 for outcomes, 512 for large inputs and
1024 for large outputs.

Exit status: 0 all is in place; 1 the fleet can't be reached, or refuses; 2 usage or settings error.

Example:
  WASMDROP_FLEET=tls://nats.example.org WASMDROP_FLEET_KEY=keys/admin.nk \\
    wasmdrop fleet init --daemon host1 --pool default
"""

_STATUS: Final = """\
Shows the queue of each pool and class of jobs, the workers and daemons that send heartbeats, and
how full the streams are. It takes the key of the administrator or of a daemon.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below this one."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    config = actions.add_parser(
        "config",
        help="make keys, and print a server's configuration",
        description=_CONFIG,
        epilog=_CONFIG_EPILOG,
    )
    config.add_argument("--keys", metavar="DIR", required=True, help="directory of the keys")
    _add_members(config)
    add_config_flag(config)
    config.add_argument(
        "--worker",
        action="append",
        default=[],
        type=_worker,
        metavar="POOL/NAME",
        dest="workers_alone",
        help="a worker that has a key of its own; may be repeated",
    )
    config.add_argument(
        "--accounts", action="store_true", help="print only the accounts, as JSON (and YAML)"
    )
    for flag, metavar, default, meaning in (
        ("--listen", "HOST:PORT", "0.0.0.0:4222", "address of the server"),
        ("--store", "DIR", "/var/lib/nats", "directory of its streams"),
        ("--tls-cert", "FILE", "/etc/nats/server.crt", "its certificate"),
        ("--tls-key", "FILE", "/etc/nats/server.key", "the key of its certificate"),
    ):
        text = f"{meaning} (default: %(default)s)"
        config.add_argument(flag, metavar=metavar, default=default, help=text)
    init = actions.add_parser(
        "init",
        help="make the streams and consumers",
        description=_INIT,
        epilog=_INIT_EPILOG,
    )
    _add_members(init)
    init.add_argument(
        "--wasmtime",
        action="append",
        default=[],
        type=_version,
        metavar="VERSION",
        help="a version whose workers get deterministic jobs, beside this host's; may be repeated",
    )
    init.add_argument("--replicas", type=int, choices=(1, 3, 5), help="copies of each stream")
    for size in _SIZES:
        init.add_argument(
            f"--{size}-mb", type=_megabytes, metavar="MB", help=f"size of a stream of {size}"
        )
    add_flags(init, _CONNECTION)
    status = actions.add_parser(
        "status", help="show queues, workers, daemons and streams", description=_STATUS
    )
    status.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    status.add_argument(
        "--listen-sec",
        type=float,
        default=_LISTEN_SECONDS,
        metavar="SECONDS",
        help="how long to listen to heartbeats, which come every 5 s (default: %(default)g)",
    )
    add_flags(status, _CONNECTION)


def _add_members(parser: argparse.ArgumentParser) -> None:
    for name, meaning in (
        ("daemon", "WASMDROP_FLEET_NAME of a daemon (default: this host's)"),
        ("pool", "WASMDROP_FLEET_POOL of workers (default: default)"),
    ):
        parser.add_argument(
            f"--{name}",
            action="append",
            type=_name,
            metavar="NAME",
            dest=f"{name}s",
            help=f"{meaning}; may be repeated",
        )


def run(options: argparse.Namespace) -> int:
    """Run the chosen command; return the exit status."""
    with FLEET.required("wasmdrop fleet"):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from wasmdrop.fleet.errors import FleetUnavailableError  # noqa: PLC0415

    # The state directory does not matter here, and may not be writable.
    given = {**given_flags(options), "state_dir": os.devnull}
    loaded = settings.load(os.environ, given, runs_jobs=False).settings
    log.configure(loaded.log, "critical")  # the command itself says what goes wrong
    options.daemons = options.daemons or [loaded.fleet_name] if "daemons" in options else []
    options.pools = options.pools or [loaded.fleet_pool] if "pools" in options else []
    if options.action == "config":
        return _print_config(options)
    if not loaded.fleet:
        raise SettingsError("WASMDROP_FLEET: expected the server's address, got off")
    try:
        if options.action == "init":
            asyncio.run(_init(loaded, _plan(options)))
        else:
            _print_status(asyncio.run(_status(loaded, options.listen_sec)), options.as_json)
    except FleetUnavailableError as error:
        say(f"the fleet: {error}")
        return _REFUSED
    return 0


def _print_config(options: argparse.Namespace) -> int:
    from wasmdrop.fleet.admin.server_config import (  # noqa: PLC0415
        ServerOptions,
        accounts_document,
        server_config,
    )

    keys = _keys(options)
    if options.accounts:
        sys.stdout.write(accounts_document(keys))
    else:
        chosen = (options.listen, options.store, options.tls_cert, options.tls_key)
        sys.stdout.write(server_config(keys, ServerOptions(*chosen)))
    return 0


def _keys(options: argparse.Namespace) -> "PublicKeys":
    from wasmdrop.fleet.admin.server_config import PublicKeys  # noqa: PLC0415

    directory = Path(options.keys)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{options.keys}: can't be made: {error.strerror}") from None
    workers: dict[str, tuple[str, ...]] = {}
    for pool, name in dict.fromkeys(options.workers_alone):
        if pool not in options.pools:
            raise SettingsError(f"--worker {pool}/{name}: expected a pool that --pool names")
        key = _key(directory / f"worker-{pool}.{name}.nk")
        workers[pool] = (*workers.get(pool, ()), key)
    return PublicKeys(
        _key(directory / "admin.nk"),
        {name: _key(directory / f"daemon-{name}.nk") for name in options.daemons},
        {name: _key(directory / f"pool-{name}.nk") for name in options.pools},
        workers,
    )


def _key(path: Path) -> str:
    """Return the public key of a seed, which is made if it is not there."""
    from wasmdrop.fleet.transport.keys import new_seed, public_key  # noqa: PLC0415

    seed = new_seed()
    try:
        create_file(path, f"{seed}\n".encode())
    except FileExistsError:
        seed = read_named_file(str(path), _MAX_SEED_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise SettingsError(f"{path}: can't be written: {error.strerror}") from None
    else:
        say(f"{path}: made")
    try:
        return public_key(seed)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _plan(options: argparse.Namespace) -> "Plan":
    from wasmdrop.fleet.admin.setup import Plan, Sizes  # noqa: PLC0415
    from wasmdrop.fleet.names import engine_class  # noqa: PLC0415

    versions = [own_versions(), *(RuntimeVersions("", each, "") for each in options.wasmtime)]
    return Plan(
        tuple(dict.fromkeys(options.daemons)),
        tuple(dict.fromkeys(options.pools)),
        tuple(dict.fromkeys(engine_class(each) for each in versions)),
        options.replicas,
        Sizes(*(getattr(options, f"{size}_mb") for size in _SIZES)),
    )


async def _reach(connection: "FleetConnection") -> None:
    from wasmdrop.fleet.errors import FleetRefusedError, FleetUnavailableError  # noqa: PLC0415

    try:
        await connection.wait_connected(_CONNECT_SECONDS)
    except FleetRefusedError:
        raise
    except FleetUnavailableError as error:
        advice = "start the server, or correct WASMDROP_FLEET"
        raise FleetUnavailableError(f"{error}; {advice}") from None


async def _init(loaded: Settings, plan: "Plan") -> None:
    from wasmdrop.fleet.admin.setup import create  # noqa: PLC0415
    from wasmdrop.fleet.transport.access import read_access  # noqa: PLC0415
    from wasmdrop.fleet.transport.connection import connect  # noqa: PLC0415

    async with connect(read_access(loaded, "wasmdrop fleet init")) as connection:
        await _reach(connection)
        async for name, became in create(connection, plan):
            sys.stdout.write(f"{name}: {became}\n")


async def _status(loaded: Settings, seconds: float) -> "FleetStatus":
    from wasmdrop.fleet.admin.status import read_status  # noqa: PLC0415
    from wasmdrop.fleet.transport.access import read_access  # noqa: PLC0415
    from wasmdrop.fleet.transport.connection import connect  # noqa: PLC0415

    async with connect(read_access(loaded, "wasmdrop fleet status")) as connection:
        await _reach(connection)
        return await read_status(connection, seconds)


def _print_status(status: "FleetStatus", as_json: bool) -> None:
    from wasmdrop.cli import fleet_view  # noqa: PLC0415

    if as_json:
        sys.stdout.write(fleet_view.as_json(status))
    else:
        fleet_view.show(status)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"expected up to 64 letters, digits, '-' or '_', got {one_line(text, 80)}"
        )
    return text


def _version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"expected a version such as 50.0.1, got {one_line(text, 80)}"
        )
    return text


def _worker(text: str) -> tuple[str, str]:
    pool, slash, name = text.partition("/")
    if not slash or not _NAME.fullmatch(pool) or not _NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(f"expected POOL/NAME, got {one_line(text, 80)}")
    return pool, name


def _megabytes(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= _MAX_MB:
        raise argparse.ArgumentTypeError(f"expected 1 to {_MAX_MB}")
    return int(text)
