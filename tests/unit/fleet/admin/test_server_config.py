"""The accounts of a fleet: the server's own tests are in tests/security/test_fleet_rights.py."""

import json

from wasmdrop.fleet.admin.server_config import (
    ACCOUNT,
    PublicKeys,
    ServerOptions,
    accounts,
    accounts_document,
    server_config,
)

KEYS = PublicKeys("UADMIN", {"d": "UD", "e": "UE"}, {"p": "UP", "q": "UQ"}, {"q": ("UW",)})


def test_accounts_have_their_users_and_only_one_has_streams() -> None:
    """A user in the account of the streams could act with the server's rights."""
    made = accounts(KEYS)
    assert {name: [user["nkey"] for user in each["users"]] for name, each in made.items()} == {
        ACCOUNT: ["UADMIN"],
        "DAEMON_d": ["UD"],
        "DAEMON_e": ["UE"],
        "WORKERS_p": ["UP"],
        "WORKERS_q": ["UQ", "UW"],
    }
    assert [name for name, each in made.items() if "jetstream" in each] == [ACCOUNT]


def test_each_import_is_exported_to_its_account_and_to_no_other() -> None:
    """And each export is imported: nothing is open that is not used."""
    made = accounts(KEYS)
    imported, exported = set(), set()
    for name, account in made.items():
        for each in account["imports"]:
            kind = "service" if "service" in each else "stream"
            imported.add((kind, each[kind]["account"], each[kind]["subject"], name))
        for each in account["exports"]:
            kind = "service" if "service" in each else "stream"
            exported |= {(kind, name, each[kind], other) for other in each["accounts"]}
    assert imported == exported


def test_members_may_subscribe_to_their_own_answers_only() -> None:
    """The prefix has the key, so that it can't be that of another member."""
    for account in accounts(KEYS).values():
        for user in account["users"]:
            if "permissions" in user:
                inboxes = [
                    subject
                    for subject in user["permissions"]["subscribe"]["allow"]
                    if subject.startswith("_")
                ]
                assert inboxes == [f"_I.{user['nkey']}.>"]


def test_documents_have_the_accounts_and_the_options() -> None:
    """The accounts alone are JSON."""
    assert json.loads(accounts_document(KEYS)) == {"accounts": accounts(KEYS)}
    options = ServerOptions("0.0.0.0:4222", "/store", "/server.crt", '/a "quoted" key')
    whole = server_config(KEYS, options)
    assert 'listen: "0.0.0.0:4222"' in whole
    assert 'key_file: "/a \\"quoted\\" key"' in whole
    assert json.loads(whole.partition("\naccounts: ")[2]) == accounts(KEYS)
