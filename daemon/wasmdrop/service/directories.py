"""Check that the configured directories can be used."""

import os

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.settings import Settings
from wasmdrop.system.durable_files import make_directory_durably
from wasmdrop.system.private_files import RUN_AS_OWNER, describe_permissions


def check_directories(settings: Settings) -> None:
    """Raise ``SettingsError`` if a directory can't be used; make the state directory."""
    user = os.geteuid()
    for name, path in (("shared", settings.shared_dir), ("wasm", settings.wasm_dir)):
        try:
            exists = path.is_dir()
        except OSError as error:
            raise SettingsError(
                f"the {name} directory {path} can't be looked at by user {user}:"
                f" {error.strerror}; let that user enter the directories above it (chmod a+x)"
            ) from None
        if not exists:
            raise SettingsError(
                f"the {name} directory {path} is not there; make it, mount it, or set"
                f" WASMDROP_{name.upper()}_DIR"
            )
    shared_dir = settings.shared_dir
    if os.statvfs(shared_dir).f_flag & os.ST_RDONLY:
        raise SettingsError(
            f"the shared directory {shared_dir} is mounted read-only; results go there: mount it"
            " read-write (without :ro or readOnly)"
        )
    if not os.access(shared_dir, os.W_OK | os.X_OK):
        raise SettingsError(
            f"the shared directory {shared_dir} can't be written to:"
            f" {describe_permissions(shared_dir.stat())}; chown or chmod it"
            f" (fsGroup in Kubernetes), or {RUN_AS_OWNER}"
        )
    make_state_directory(settings)


def make_state_directory(settings: Settings) -> None:
    """Make the state directory. Raises ``SettingsError`` if that fails."""
    user = os.geteuid()
    try:
        make_directory_durably(settings.state_dir, 0o700)
    except OSError as error:
        raise SettingsError(
            f"the state directory {settings.state_dir} can't be made by user {user}:"
            f" {error.strerror}; make it (install -d -m 700 -o {user} {settings.state_dir}), or set"
            " WASMDROP_STATE_DIR"
        ) from None
