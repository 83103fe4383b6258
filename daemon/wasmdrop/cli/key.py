"""``wasmdrop key``: make a key that signs receipts, or show the public part of one."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wasmdrop.cli.named_files import create_file, read_named_file
from wasmdrop.protocol.errors import MalformedError, SettingsError
from wasmdrop.system.extras import RECEIPTS

if TYPE_CHECKING:
    from wasmdrop.proof.keys import PublicKey

_KINDS: Final = ("ed25519", "p256", "secp256k1")

_NEW: Final = """\
Writes a new private key to FILE (PEM, PKCS#8, mode 0600), which must not exist yet, and prints
its key id and its public key. Name the file in WASMDROP_SIGNING_KEY, and give the output to those
who verify your receipts.
"""

_NEW_EPILOG: Final = """\
ed25519 is the default. Contracts can verify secp256k1 (ecrecover) and p256 (EIP-7951).

Example:
  wasmdrop key new /etc/wasmdrop/signing-key.pem >operator.pem
"""

_SHOW: Final = """\
Prints the key id and the public key of each key in FILE, and the address of a secp256k1 key.
FILE has one private key or any number of public keys. The output is a file of public keys, too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below this one."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make a private key",
        description=_NEW,
        epilog=_NEW_EPILOG,
    )
    new.add_argument("--type", choices=_KINDS, default=_KINDS[0], help="default: %(default)s")
    new.add_argument("file", metavar="FILE", help="the private key to write")
    show = actions.add_parser("show", help="print the public part of a key", description=_SHOW)
    show.add_argument("file", metavar="FILE", help="a private key, or public keys, in PEM")


def run(options: argparse.Namespace) -> int:
    """Make or show a key."""
    keys = _make(options) if options.action == "new" else _load(options)
    sys.stdout.write("".join(map(_described, keys)))
    return 0


def _make(options: argparse.Namespace) -> tuple["PublicKey", ...]:
    with RECEIPTS.required("key"):
        from wasmdrop.proof.keys import KeyKind, PrivateKey  # noqa: PLC0415
    key = PrivateKey.generate(KeyKind(options.type))
    try:
        create_file(Path(options.file), key.pem())
    except FileExistsError:
        raise SettingsError(
            f"{options.file}: exists; a key is never overwritten: choose another name, or remove it"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has this name"
        raise SettingsError(f"{options.file}: can't be written: {reason}") from None
    return (key.public,)


def _load(options: argparse.Namespace) -> tuple["PublicKey", ...]:
    with RECEIPTS.required("key"):
        from wasmdrop.proof import keys  # noqa: PLC0415
    data = read_named_file(options.file, keys.MAX_KEY_FILE_BYTES)
    try:
        if keys.holds_private_key(data):
            return (keys.PrivateKey.from_pem(data).public,)
        return keys.load_public_keys(data)
    except MalformedError as error:
        raise SettingsError(f"{options.file}: {error}") from None


def _described(key: "PublicKey") -> str:
    """Return a PEM file with a comment: readers of PEM skip the lines above a key."""
    address = key.address()
    line = "" if address is None else f"address: {address}\n"
    return f"type: {key.kind}\nkey id: {key.key_id}\n{line}{key.pem()}"
