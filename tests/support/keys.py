"""Files of signing keys, made with ``openssl``."""

import subprocess
from pathlib import Path
from typing import Final

from tests.support.require import require_tools

#: For each kind of key, the arguments of ``openssl genpkey``.
KINDS: Final = {
    "ed25519": ("-algorithm", "ed25519"),
    "p256": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "secp256k1": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
    "RSA": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
}


def new_key(path: Path, kind: str = "ed25519", *options: str) -> Path:
    """Write a new private key in PEM, readable by its owner alone; ``options``: of openssl."""
    require_tools("openssl")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["openssl", "genpkey", "-quiet", *KINDS[kind], *options, "-out", str(path)]
    subprocess.run(command, check=True)
    path.chmod(0o600)
    return path


def key_bytes(path: Path, form: str, *options: str) -> bytes:
    """Return a private key in ``DER`` or ``PEM``, as openssl writes it with these options."""
    command = ["openssl", "pkey", "-in", str(path), "-outform", form, *options]
    return subprocess.run(command, check=True, capture_output=True).stdout
