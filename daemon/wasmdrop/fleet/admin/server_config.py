"""The configuration of a NATS server for a fleet: who may send and receive what.

Rights within one account are not enough. The server itself sends the answer to a request to the
subject that the request names, with rights of its own: a worker that may only ask for jobs could
have the answer sent to the subject that deletes a stream. So the streams are in an account that
only the administrator uses. Each daemon and each pool of workers has an account of its own, in
which such a subject means nothing, and imports the subjects that it needs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from wasmdrop.fleet.names import (
    ALL_MODULE_CHUNKS,
    ALL_OUTCOMES,
    ALL_OUTPUT_CHUNKS,
    API,
    MEMBER_API,
    MODULES,
    all_inputs,
    all_outputs,
    daemon_heartbeat_subject,
    daemon_jobs_filter,
    heartbeat_subject,
    input_stream,
    job_stream,
    outcome_consumer,
    outcome_stream,
    outcomes_filter,
    output_stream,
    pool_inputs,
    pool_modules,
    revocation_subject,
    started_subject,
)
from wasmdrop.fleet.transport.keys import inbox_prefix

#: The account of the streams and the administrator.
ACCOUNT: Final = "WASMDROP"


class PublicKeys(msgspec.Struct, frozen=True):
    """Who may use the fleet: names and public nkeys."""

    admin: str
    daemons: Mapping[str, str]
    pools: Mapping[str, str]
    """The key that the workers of a pool share."""
    workers: Mapping[str, tuple[str, ...]] = {}
    """Keys of single workers, by their pool. Each receives its jobs on subjects of its own, which
    no other worker may read."""


class ServerOptions(msgspec.Struct, frozen=True):
    """What the host of the server decides."""

    listen: str
    store: str
    tls_cert: str
    tls_key: str


class _Member(msgspec.Struct, frozen=True):
    """An account other than that of the streams."""

    name: str
    keys: tuple[str, ...]
    """Those of its users, who have the same rights except for the subjects of their answers."""
    sends: tuple[str, ...]
    """Subjects of the account of the streams."""
    calls: tuple[str, ...]
    """Functions of JetStream, which the account has below a prefix of its own: the server itself
    answers the usual one, that JetStream is not enabled there."""
    announces: Mapping[str, tuple[str, ...]]
    """Subjects of messages that are not stored, and the accounts that receive them. They can't go
    by way of the account of the streams: what comes by a service import is not exported again."""
    hears: tuple[str, ...]
    """Subjects of such messages of other members."""


def accounts(keys: PublicKeys) -> dict[str, Any]:
    """Return the value of ``accounts`` in the server's configuration."""
    members = [
        *(_daemon(name, key, list(keys.pools)) for name, key in keys.daemons.items()),
        *(
            _pool(name, (key, *keys.workers.get(name, ())), list(keys.daemons))
            for name, key in keys.pools.items()
        ),
    ]
    services: dict[str, list[str]] = {}
    for member in members:
        for subject in (*member.sends, *(f"{API}.{call}" for call in member.calls)):
            services.setdefault(subject, []).append(member.name)
    main = {
        "jetstream": "enabled",
        "users": [{"nkey": keys.admin}],
        "exports": [{"service": subject, "accounts": names} for subject, names in services.items()],
        "imports": _announced_to(ACCOUNT, members),
    }
    return {ACCOUNT: main} | {member.name: _account(member, members) for member in members}


def accounts_document(keys: PublicKeys) -> str:
    """Return the accounts as one JSON document, which is YAML and a server's configuration, too."""
    return json.dumps({"accounts": accounts(keys)}, indent=2) + "\n"


def server_config(keys: PublicKeys, options: ServerOptions) -> str:
    """Return the whole configuration of one server."""
    return f"""\
# NATS server of a fleet of wasmdrop, made by `wasmdrop fleet config`.
# A cluster has this file on each server, with another server_name, and a `cluster` block.
listen: {json.dumps(options.listen)}

jetstream {{
  store_dir: {json.dumps(options.store)}
}}

tls {{
  cert_file: {json.dumps(options.tls_cert)}
  key_file: {json.dumps(options.tls_key)}
}}

accounts: {json.dumps(accounts(keys), indent=2)}
"""


def _account(member: _Member, members: Sequence[_Member]) -> dict[str, Any]:
    calls = {f"{API}.{call}": f"{MEMBER_API}.{call}" for call in member.calls}
    heard = _announced_to(member.name, members)
    sends = [*member.sends, *calls.values(), *member.announces]
    return {
        "users": [_user(key, sends, member.hears) for key in member.keys],
        "exports": [
            {"stream": subject, "accounts": list(names)}
            for subject, names in member.announces.items()
        ],
        "imports": [
            *({"service": _source(ACCOUNT, subject)} for subject in member.sends),
            *({"service": _source(ACCOUNT, far), "to": near} for far, near in calls.items()),
            *heard,
        ],
    }


def _user(key: str, sends: Sequence[str], hears: Sequence[str]) -> dict[str, Any]:
    receives = [f"{inbox_prefix(key)}.>", *hears]
    rights = {"publish": {"allow": list(sends)}, "subscribe": {"allow": receives}}
    return {"nkey": key, "permissions": rights}


def _announced_to(account: str, members: Sequence[_Member]) -> list[dict[str, Any]]:
    return [
        {"stream": _source(member.name, subject)}
        for member in members
        for subject, receivers in member.announces.items()
        if account in receivers
    ]


def _source(account: str, subject: str) -> dict[str, str]:
    return {"account": account, "subject": subject}


def _daemon_account(name: str) -> str:
    return f"DAEMON_{name}"


def _pool_account(name: str) -> str:
    return f"WORKERS_{name}"


def _daemon(name: str, key: str, pools: Sequence[str]) -> _Member:
    consumer = outcome_consumer(name)
    inputs, outputs = input_stream(name), output_stream(name)
    outcomes = outcome_stream(name)
    # A right to purge the streams of jobs would be one to remove the jobs of all daemons.
    revocations = {revocation_subject(pool, name): (_pool_account(pool),) for pool in pools}
    return _Member(
        _daemon_account(name),
        (key,),
        sends=(
            daemon_jobs_filter("*", name),
            ALL_MODULE_CHUNKS,
            all_inputs(name),
            f"{API}.CONSUMER.MSG.NEXT.{outcomes}.{consumer}",
            f"$JS.ACK.{outcomes}.{consumer}.>",
            f"{API}.DIRECT.GET.{MODULES}.{ALL_MODULE_CHUNKS}",
            f"{API}.DIRECT.GET.{outcomes}.{outcomes_filter(name)}",
            f"{API}.DIRECT.GET.{outputs}.{all_outputs(name)}",
        ),
        calls=(
            "STREAM.LIST",
            "STREAM.INFO.*",
            "CONSUMER.LIST.*",
            "CONSUMER.INFO.*.*",
            f"STREAM.PURGE.{inputs}",
            f"STREAM.PURGE.{outputs}",
        ),
        announces={**revocations, daemon_heartbeat_subject(name): (ACCOUNT,)},
        hears=(
            started_subject(name),
            heartbeat_subject("*", "*"),
            daemon_heartbeat_subject(name),  # of a second daemon with this name
        ),
    )


def _pool(name: str, keys: tuple[str, ...], daemons: Sequence[str]) -> _Member:
    jobs = job_stream(name)
    started = {started_subject(daemon): (_daemon_account(daemon),) for daemon in daemons}
    everyone = (ACCOUNT, *map(_daemon_account, daemons))
    return _Member(
        _pool_account(name),
        keys,
        sends=(
            ALL_OUTCOMES,
            ALL_OUTPUT_CHUNKS,
            f"{API}.CONSUMER.MSG.NEXT.{jobs}.*",
            f"$JS.ACK.{jobs}.>",
            f"{API}.DIRECT.GET.{MODULES}.{pool_modules(name)}",
            f"{API}.DIRECT.GET.*.{pool_inputs(name)}",
        ),
        calls=(),
        announces={**started, heartbeat_subject(name, "*"): everyone},
        hears=(revocation_subject(name, "*"),),
    )
