"""Rules for single values of an input: paths, digests, base64, and their JSON Schema patterns."""

import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, NoReturn, TypeAlias

import msgspec

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import GRANT_NAME
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.strict_json import path_to
from wasmdrop.protocol.text import describe_value

#: Files in one job's directory. 16 MiB of input could name a million empty ones.
MAX_FILES: Final = 4096

# Bounds of one path, at or below the kernel's (NAME_MAX, PATH_MAX), so that a job's directory can
# always be removed.
MAX_PATH_BYTES: Final = 1024
_MAX_COMPONENT_BYTES: Final = 255
_MAX_COMPONENTS: Final = 32

DIGEST: Final = "sha256:"
DIGEST_FORM: Final = f"{DIGEST}[0-9A-Fa-f]{{64}}"

# Valid in Python and in ECMAScript, the dialect of JSON Schema. A path that matches is relative,
# does not leave its directory, and has only one spelling: no component is . or .. or empty.
_COMPONENT: Final = r"(?:[^./\x00][^/\x00]{0,254}|\.[^./\x00][^/\x00]{0,253}|\.\.[^/\x00]{1,253})"
PLAIN_PATH: Final = f"{_COMPONENT}(?:/{_COMPONENT}){{0,{_MAX_COMPONENTS - 1}}}"
MODULE_PATH: Final = PLAIN_PATH.replace(r"\x00", r"\x00\\")
ENV_NAME: Final = r"[^=\x00]+"
_BASE64: Final = (
    "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"  # RFC 4648, section 4
)


class Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Binary data."""

    base64: Annotated[
        str,
        msgspec.Meta(
            description="RFC 4648, section 4: the standard alphabet, padded, no line breaks",
            extra_json_schema={"contentEncoding": "base64", "pattern": f"^{_BASE64}$"},
        ),
    ]

    def decoded(self) -> bytes:
        """Return the bytes. Raises ``ValueError`` if it is not base64, never in an `InputSpec`."""
        # The strict mode below accepts superfluous padding.
        if len(self.base64) % 4 or self.base64.endswith("==="):
            raise ValueError("Incorrect padding")
        return binascii.a2b_base64(self.base64, strict_mode=True)


Content: TypeAlias = str | Base64


def content_bytes(content: Content) -> bytes:
    """Return ``content`` as bytes, text as UTF-8."""
    return content.encode() if isinstance(content, str) else content.decoded()


def check_module(module: str) -> None:
    """Refuse a module reference that is neither a path nor a digest."""
    if re.fullmatch(DIGEST_FORM, module):
        return
    if module.startswith(DIGEST):
        expected = "sha256: and 64 hexadecimal digits"
    elif _is_plain_path(module, MODULE_PATH):
        return
    else:
        expected = "a plain path below the wasm directory, such as group/fib.wasm"
    refuse(("module",), f"expected {expected}, got {describe_value(module)}")


def check_env(env: Mapping[str, str]) -> None:
    """Refuse invalid names and values of environment variables."""
    for name, value in env.items():
        if not re.fullmatch(ENV_NAME, name):
            refuse(("env",), f"expected names without '=' and NUL, got {describe_value(name)}")
        if "\0" in value:
            refuse(("env", name), f"expected a string without NUL, got {describe_value(value)}")


def check_files(files: Mapping[str, Content]) -> None:
    """Refuse too many files, invalid paths, and a file that is also a directory."""
    if len(files) > MAX_FILES:
        refuse(("files",), f"expected at most {MAX_FILES} files, got {len(files)}")
    for name, content in files.items():
        if not _is_plain_path(name):
            refuse(
                ("files",),
                f"expected plain relative paths, such as data/in.txt, got {describe_value(name)}",
            )
        slash = name.find("/")
        while slash != -1:
            if name[:slash] in files:
                refuse(
                    ("files", name),
                    f"{describe_value(name[:slash])} can't be a file and a directory",
                )
            slash = name.find("/", slash + 1)
        check_content(content, "files", name)


def check_grants(grants: tuple[str, ...], files: Mapping[str, Content]) -> None:
    """Refuse invalid and repeated names, and files that a grant hides."""
    for index, name in enumerate(grants):
        if not re.fullmatch(GRANT_NAME, name):
            expected = "letters, digits, '_' and '-', at most 64"
            refuse(("grants", index), f"expected {expected}, got {describe_value(name)}")
        if name in grants[:index]:
            refuse(("grants", index), f"{describe_value(name)} is listed twice")
    for path in files:
        if path.partition("/")[0] in grants:
            refuse(("files", path), "a grant of that name would hide it")


def check_content(content: Content, *steps: str) -> None:
    """Refuse invalid base64."""
    if isinstance(content, Base64):
        try:
            content.decoded()
        except ValueError as error:
            given = describe_value(content.base64)
            refuse((*steps, "base64"), f"expected base64, got {given} ({error})")


def _is_plain_path(path: str, pattern: str = PLAIN_PATH) -> bool:
    return (
        re.fullmatch(pattern, path) is not None
        and len(path.encode()) <= MAX_PATH_BYTES
        and all(len(part.encode()) <= _MAX_COMPONENT_BYTES for part in path.split("/"))
    )


def refuse(steps: Iterable[str | int], what: str) -> NoReturn:
    """Raise ``RefusedError`` (``invalid-input``) for the value at this path."""
    raise RefusedError(Code.INVALID_INPUT, f"{path_to(*steps)}: {what}")


def text_or_base64(data: bytes) -> str | dict[str, str]:
    """Return content as an input has it: text, or base64 if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": binascii.b2a_base64(data, newline=False).decode()}
