"""Loading the signing key: which keys stop the start, and what the line says."""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.keys import KINDS, key_bytes, new_key
from tests.support.require import require_root
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.service import secret_places, signing_key
from wasmdrop.service.signing_key import SigningKeyError, load_signing_key, require_confinement
from wasmdrop.settings import Settings, load
from wasmdrop.system import secret_files
from wasmdrop.system.libc import prctl

PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4


@pytest.fixture(autouse=True)
def inspectable() -> Iterator[None]:
    """Let the test process be inspected again."""
    yield
    prctl(PR_SET_DUMPABLE, 1)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Give an ed25519 key."""
    return new_key(tmp_path / "keys" / "key.pem")


def settings(base: Path, key: Path | None, **variables: str) -> Settings:
    """Return the settings of a daemon with this key and with directories that exist."""
    names = ("WASMDROP_SHARED_DIR", "WASMDROP_WASM_DIR", "WASMDROP_STATE_DIR")
    environ = {name: str(base / name) for name in names}
    for path in environ.values():
        Path(path).mkdir(exist_ok=True)
    if key is not None:
        environ["WASMDROP_SIGNING_KEY"] = str(key)
    return load(environ | variables, {}).settings


def refusal(base: Path, key: Path, **variables: str) -> str:
    """Return the line that stops the start; it names the variable and the file."""
    with pytest.raises(SigningKeyError) as refused:
        load_signing_key(settings(base, key, **variables))
    line = str(refused.value)
    assert line.startswith(f"WASMDROP_SIGNING_KEY: {key}")
    assert line.endswith(f"; {refused.value.advice}")
    assert line.isprintable()
    return line


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "RSA"])
def test_signing_key_of_each_kind_is_loaded(tmp_path: Path, kind: str) -> None:
    """And nothing else may inspect the process from then on."""
    key = new_key(tmp_path / "keys" / "key.pem", kind)
    loaded = load_signing_key(settings(tmp_path, key))
    assert loaded is not None
    assert loaded.kind == kind
    assert prctl(PR_GET_DUMPABLE) == 0


def test_signing_key_that_is_not_set_changes_nothing(tmp_path: Path) -> None:
    """A daemon without one can be inspected as before."""
    assert load_signing_key(settings(tmp_path, None)) is None
    assert prctl(PR_GET_DUMPABLE) == 1


def test_signing_key_is_read_after_inspection_is_forbidden(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise there would be a moment in which it can be read from memory."""
    found = []
    read = secret_files.read_secret

    def observed(path: Path, max_bytes: int) -> object:
        found.append(prctl(PR_GET_DUMPABLE))
        return read(path, max_bytes)

    monkeypatch.setattr(signing_key, "read_secret", observed)
    load_signing_key(settings(tmp_path, key))
    assert found == [0]


def test_signing_key_that_is_encrypted_is_refused(tmp_path: Path) -> None:
    """The daemon can ask for no passphrase."""
    key = new_key(tmp_path / "keys" / "key.pem", "ed25519", "-aes256", "-pass", "pass:secret")
    assert "encrypted" in refusal(tmp_path, key).partition(";")[0]


def test_signing_key_that_is_a_public_key_is_refused(key: Path, tmp_path: Path) -> None:
    """The file of the other half."""
    key.write_bytes(key_bytes(key, "PEM", "-pubout"))
    assert "public key" in refusal(tmp_path, key)


def test_signing_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    """RSA is what openssl makes by default."""
    assert "another kind" in refusal(tmp_path, new_key(tmp_path / "keys" / "key.pem", "RSA"))


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\xff\x00" * 100, b"k" * 20_000])
def test_signing_key_that_is_no_key_is_refused(key: Path, tmp_path: Path, content: bytes) -> None:
    """The line has none of the bytes."""
    key.write_bytes(content)
    line = refusal(tmp_path, key)
    assert "garbage" not in line
    assert "expected an unencrypted private key in PEM" in line


def test_signing_key_that_is_damaged_is_refused_without_its_bytes(
    key: Path, tmp_path: Path
) -> None:
    """Neither the line nor the errors behind it have a part of the key."""
    text = key.read_text()
    body = text.splitlines()[1]
    key.write_text(text.replace(body, body[:-8] + "AAAA"))
    with pytest.raises(SigningKeyError) as refused:
        load_signing_key(settings(tmp_path, key))
    assert body[:16] not in str(refused.value)
    assert refused.value.__suppress_context__


def test_signing_key_that_others_can_read_is_refused(key: Path, tmp_path: Path) -> None:
    """Here the file's mode; all rules are tested with ``read_secret``."""
    key.chmod(0o644)
    line = refusal(tmp_path, key)
    assert "any user can read it" in line
    assert "chmod 600" in line


def in_shared(base: Path, key: Path) -> Path:
    """Put the key below the shared directory."""
    return Path(shutil.move(key, base / "WASMDROP_SHARED_DIR"))


def below_shared(base: Path, key: Path) -> Path:
    """Put the key two levels below the shared directory."""
    directory = base / "WASMDROP_SHARED_DIR" / "a" / "b"
    directory.mkdir(parents=True)
    return Path(shutil.move(key, directory))


def in_wasm(base: Path, key: Path) -> Path:
    """Put the key below the wasm directory."""
    return Path(shutil.move(key, base / "WASMDROP_WASM_DIR"))


def in_state(base: Path, key: Path) -> Path:
    """Put the key below the state directory."""
    return Path(shutil.move(key, base / "WASMDROP_STATE_DIR"))


def linked_into_shared(base: Path, key: Path) -> Path:
    """Name a link to the key below the shared directory."""
    link = base / "link"
    link.symlink_to(in_shared(base, key))
    return link


def linked_from_shared(base: Path, key: Path) -> Path:
    """Name a link in the shared directory, which producers could replace."""
    link = base / "WASMDROP_SHARED_DIR" / "link"
    link.symlink_to(key)
    return link


def behind_linked_directory(base: Path, key: Path) -> Path:
    """Name the key through a link to the shared directory."""
    (base / "elsewhere").symlink_to(base / "WASMDROP_SHARED_DIR")
    return base / "elsewhere" / in_shared(base, key).name


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (in_shared, "shared directory"),
        (below_shared, "shared directory"),
        (in_wasm, "wasm directory"),
        (in_state, "state directory"),
        (linked_into_shared, "shared directory"),
        (linked_from_shared, "shared directory"),
        (behind_linked_directory, "shared directory"),
    ],
)
def test_signing_key_in_a_directory_of_others_is_refused(
    key: Path, tmp_path: Path, place: Callable[[Path, Path], Path], name: str
) -> None:
    """Also if only a link on the way is there."""
    settings(tmp_path, None)  # makes the directories
    assert f"reached through the {name}" in refusal(tmp_path, place(tmp_path, key))


def test_signing_key_below_a_grant_is_refused(key: Path, tmp_path: Path) -> None:
    """Jobs can read everything in it."""
    line = refusal(tmp_path, key, WASMDROP_GRANTS=f"data={key.parent}")
    assert f"reached through grant data {key.parent}" in line


def test_signing_key_that_is_input_module_or_result_is_refused(tmp_path: Path) -> None:
    """The daemon would quote it in an error message, or overwrite it."""
    for variable in ("INPUT_PATH", "WASM_PATH", "OUTPUT_PATH"):
        key = new_key(tmp_path / "keys" / "key.json")
        line = refusal(tmp_path, key, **{variable: str(key)})
        assert f"reached through {variable}" in line


def test_signing_key_in_a_directory_that_only_its_inode_shows_is_refused(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network filesystem that is mounted twice has no comparable entries in the mount table."""
    settings(tmp_path, None)
    inside = below_shared(tmp_path, key)
    monkeypatch.setattr(
        secret_places, "places_of", lambda paths: [(str(id(path)), path) for path in paths]
    )
    link = tmp_path / "link"
    link.symlink_to(inside)
    assert "reached through the shared directory" in refusal(tmp_path, link)


def test_signing_key_on_a_bind_mount_of_a_shared_directory_is_refused(
    key: Path, tmp_path: Path
) -> None:
    """Of the whole directory, of a part of it, and of the file alone."""
    require_root()
    settings(tmp_path, None)
    inside = below_shared(tmp_path, key)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for above in list(inside.parents)[:3]:
        subprocess.run(["mount", "--bind", above, mounted], check=True)
        try:
            line = refusal(tmp_path, mounted / inside.relative_to(above))
        finally:
            subprocess.run(["umount", mounted], check=True)
        assert "reached through the shared directory" in line
    file = tmp_path / "file.pem"
    file.touch()
    subprocess.run(["mount", "--bind", inside, file], check=True)
    try:
        assert "reached through the shared directory" in refusal(tmp_path, file)
    finally:
        subprocess.run(["umount", file], check=True)


def test_signing_key_without_the_package_is_refused(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says how to install it."""
    for name in [name for name in sys.modules if name.startswith("wasmdrop.proof")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert "pip install 'wasmdrop[receipts]'" in refusal(tmp_path, key)


def test_signing_key_where_jobs_are_not_confined_is_refused(key: Path, tmp_path: Path) -> None:
    """Without a key ``best-effort`` goes on."""
    require_confinement(settings(tmp_path, None), "Landlock")
    with pytest.raises(SettingsError) as refused:
        require_confinement(settings(tmp_path, key), "Landlock (none)")
    line = str(refused.value)
    assert line.startswith(f"WASMDROP_SIGNING_KEY: {key}")
    assert "missing: Landlock (none)" in line


def test_serve_without_a_signing_key_imports_no_cryptography() -> None:
    """It costs every start 0.2 s and 13 MiB."""
    script = (
        "import sys, wasmdrop.cli.serve, wasmdrop.cli.run;sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert importlib.util.find_spec("cryptography")
