"""Keys: which files are taken, and signatures that other implementations agree with."""

import hashlib
import subprocess
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from eth_keys.main import KeyAPI

from wasmdrop.proof.keys import (
    MAX_KEY_FILE_BYTES,
    KeyKind,
    PrivateKey,
    PublicKey,
    holds_private_key,
    load_public_keys,
)
from wasmdrop.protocol.errors import MalformedError

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SECP256K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

#: The private key of RFC 6979, appendix A.2.5.
RFC_6979: Final = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721


def of_number(number: int, curve: ec.EllipticCurve) -> PrivateKey:
    """Return the ECDSA key of this number."""
    return PrivateKey(ec.derive_private_key(number, curve))


def openssl(*words: str, data: bytes = b"") -> bytes:
    """Run openssl; return its standard output."""
    return subprocess.run(["openssl", *words], input=data, check=True, capture_output=True).stdout


@pytest.mark.parametrize(
    ("data", "r", "s"),
    [
        (
            b"sample",
            0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
            P256_ORDER - 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
        ),
        (
            b"test",
            0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
            0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
        ),
    ],
)
def test_p256_signature_of_rfc_6979_data_is_the_published_one(data: bytes, r: int, s: int) -> None:
    """That of ``sample`` has a high s in the RFC: the other one is used."""
    signature = of_number(RFC_6979, ec.SECP256R1()).sign(data)
    assert decode_dss_signature(signature) == (r, s)


@pytest.mark.parametrize(
    ("data", "r", "s"),
    [
        (
            b"Satoshi Nakamoto",
            0x934B1EA10A4B3C1757E2B0C017D0B6143CE3C9A7E6A4A49860D7A6AB210EE3D8,
            0x2442CE9D2B916064108014783E923EC36B49743E2FFA1C4496F01A512AAFD9E5,
        ),
        (
            b"All those moments will be lost in time, like tears in rain. Time to die...",
            0x8600DBD41E348FE5C9465AB92D23E3DB8B98B873BEECD930736488696438CB6B,
            0x547FE64427496DB33BF66019DACBF0039C04199ABB0122918601DB38A72CFC21,
        ),
    ],
)
def test_secp256k1_signature_of_known_data_is_the_published_one(
    data: bytes, r: int, s: int
) -> None:
    """The vectors that Bitcoin libraries share, with the private key 1."""
    signature = of_number(1, ec.SECP256K1()).sign(data)
    assert decode_dss_signature(signature) == (r, s)


def test_ed25519_signature_of_rfc_8032_data_is_the_published_one() -> None:
    """Section 7.1, test 2."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


@pytest.mark.parametrize(
    ("curve", "order"), [(ec.SECP256R1(), P256_ORDER), (ec.SECP256K1(), SECP256K1_ORDER)]
)
def test_ecdsa_signature_has_the_lower_s_and_verifies_with_either(
    curve: ec.EllipticCurve, order: int
) -> None:
    """Half of all nonces give the higher one, which other signers do not replace."""
    key = of_number(RFC_6979, curve)
    for number in range(20):
        data = str(number).encode()
        signature = key.sign(data)
        r, s = decode_dss_signature(signature)
        assert s <= order // 2
        assert key.public.verifies(data, signature)
        assert key.public.verifies(data, encode_dss_signature(r, order - s))


@pytest.mark.parametrize("kind", KeyKind)
def test_signature_is_repeatable_and_of_these_bytes_and_this_key_alone(kind: KeyKind) -> None:
    """Nor is garbage a signature, or an error."""
    key, other = PrivateKey.generate(kind), PrivateKey.generate(kind)
    signature = key.sign(b"data")
    assert signature == key.sign(b"data")
    assert key.public.verifies(b"data", signature)
    assert not key.public.verifies(b"date", signature)
    assert not other.public.verifies(b"data", signature)
    for wrong in (b"", b"x", signature[:-1], signature + b"\0", bytes(64), bytes(1024)):
        assert not key.public.verifies(b"data", wrong)


@pytest.mark.parametrize("kind", KeyKind)
def test_signature_is_accepted_by_openssl_with_the_public_pem(
    kind: KeyKind, tmp_path: Path
) -> None:
    """The key id is the digest of openssl's DER."""
    key = PrivateKey.generate(kind)
    public, signature, data = (tmp_path / name for name in ("public", "signature", "data"))
    public.write_text(key.public.pem())
    data.write_bytes(b"data")
    signature.write_bytes(key.sign(b"data"))
    if kind is KeyKind.ED25519:
        verify = ["pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
        words = [*verify, "-in", str(data), "-sigfile", str(signature)]
    else:
        words = ["dgst", "-sha256", "-verify", str(public), "-signature", str(signature), str(data)]
    openssl(*words)
    der = openssl("pkey", "-pubin", "-in", str(public), "-outform", "DER")
    assert hashlib.sha256(der).hexdigest() == key.key_id


def test_secp256k1_signature_recovers_the_public_key() -> None:
    """With one of the two values of v, as ``ecrecover`` does in a contract."""
    key = PrivateKey.generate(KeyKind.SECP256K1)
    r, s = decode_dss_signature(key.sign(b"data"))
    digest = hashlib.sha256(b"data").digest()
    recovered = {
        KeyAPI().Signature(vrs=(v, r, s)).recover_public_key_from_msg_hash(digest).to_bytes()
        for v in (0, 1)
    }
    public = serialization.load_pem_public_key(key.public.pem().encode())
    point = public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    assert point[1:] in recovered


@pytest.mark.parametrize(
    ("number", "address"),
    [
        (1, "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"),
        (2, "0x2B5AD5c4795c026514f8317c7a215E218DcCD6cF"),
    ],
)
def test_address_of_known_secp256k1_key_is_the_published_one(number: int, address: str) -> None:
    """With its checksum in upper and lower case."""
    assert of_number(number, ec.SECP256K1()).public.address() == address


def test_address_of_other_kinds_is_none() -> None:
    """Only secp256k1 keys are accounts of Ethereum."""
    for kind in (KeyKind.ED25519, KeyKind.P256):
        assert PrivateKey.generate(kind).public.address() is None


@pytest.mark.parametrize("kind", KeyKind)
def test_private_key_survives_its_pem_file(kind: KeyKind) -> None:
    """Its own and that of openssl."""
    options = {
        KeyKind.ED25519: ["-algorithm", "ed25519"],
        KeyKind.P256: ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        KeyKind.SECP256K1: ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
    }
    pem = openssl("genpkey", *options[kind])
    key = PrivateKey.from_pem(pem)
    assert (key.kind, key.public.kind) == (kind, kind)
    assert key.pem() == pem
    assert holds_private_key(pem)
    assert not holds_private_key(key.public.pem().encode())


def _encrypted() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


def _plain(
    key: rsa.RSAPrivateKey | ed448.Ed448PrivateKey | ec.EllipticCurvePrivateKey,
    form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


_KIND = "it is a key of another kind than ed25519, p256, secp256k1"
_SEC1 = ec.generate_private_key(ec.SECP256K1())


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", "it has 0 PEM blocks, not one"),
        (b"\xff\0 garbage", "it has 0 PEM blocks, not one"),
        (PrivateKey.generate(KeyKind.P256).pem() * 2, "it has 2 PEM blocks, not one"),
        (PrivateKey.generate(KeyKind.P256).public.pem().encode(), "it is a public key"),
        (_encrypted(), "it is encrypted"),
        (_plain(rsa.generate_private_key(65537, 2048)), _KIND),
        (_plain(ed448.Ed448PrivateKey.generate()), _KIND),
        (_plain(ec.generate_private_key(ec.SECP384R1())), _KIND),
        (
            b"-----BEGIN EC PARAMETERS-----\nBgUrgQQACg==\n-----END EC PARAMETERS-----\n"
            + _plain(_SEC1, serialization.PrivateFormat.TraditionalOpenSSL),
            'got "EC PRIVATE KEY"; convert it',
        ),
        (
            _SEC1.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.BestAvailableEncryption(b"password"),
            ),
            'got "EC PRIVATE KEY"; convert it',
        ),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "can't be decoded"),
        (b"-" * (MAX_KEY_FILE_BYTES + 1), "larger than 65536 bytes"),
    ],
    ids=range(12),
)
def test_private_key_that_is_none_of_the_kinds_is_refused(pem: bytes, reason: str) -> None:
    """With a reason that shows nothing of the file."""
    with pytest.raises(MalformedError) as raised:
        PrivateKey.from_pem(pem)
    text = str(raised.value)
    assert reason in text
    lines = pem.decode("latin-1").splitlines()
    secret = "".join(line for line in lines if not line.startswith("-----"))
    assert not any(secret[at : at + 12] in text for at in range(len(secret) - 11))
    assert raised.value.__cause__ is None


def test_private_key_shows_no_secret() -> None:
    """Neither as text nor with its attributes that are not private."""
    key = PrivateKey.generate(KeyKind.ED25519)
    body = key.pem().decode().splitlines()[1]
    assert body not in repr(key) + str(key) + repr(vars(key))


def test_public_keys_of_one_file_are_all_loaded_once() -> None:
    """As several operators' keys are put together, with text between them."""
    keys = [PrivateKey.generate(kind).public for kind in KeyKind]
    text = "".join(f"key id: {key.key_id}\n{key.pem()}" for key in (*keys, keys[0]))
    loaded = load_public_keys(text.encode())
    assert [key.key_id for key in loaded] == [key.key_id for key in keys]


def _public(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


_GOOD = PrivateKey.generate(KeyKind.ED25519).public.pem().encode()


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"no key", "expected public keys in PEM, found none"),
        (
            _GOOD + PrivateKey.generate(KeyKind.P256).pem(),
            'block 2: expected "PUBLIC KEY", got "PRIVATE KEY"; `wasmdrop key show` prints',
        ),
        (_GOOD + _public(rsa.generate_private_key(65537, 2048).public_key()), f"block 2: {_KIND}"),
        (_public(ec.generate_private_key(ec.SECP384R1()).public_key()), f"block 1: {_KIND}"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "can't be decoded"),
    ],
    ids=range(5),
)
def test_public_keys_with_one_that_is_none_of_the_kinds_are_refused(
    pem: bytes, reason: str
) -> None:
    """A file of trusted keys that is read in part would trust fewer than it says."""
    with pytest.raises(MalformedError, match=reason):
        load_public_keys(pem)


def test_key_id_of_a_compressed_point_is_that_of_the_key() -> None:
    """The same key has one id, however its file encodes it."""
    private = ec.generate_private_key(ec.SECP256K1())
    compressed = private.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    again = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), compressed)
    assert PublicKey(again).key_id == PrivateKey(private).key_id
