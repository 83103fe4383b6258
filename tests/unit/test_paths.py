"""Which modules may use paths: below the shared directory others can change what a path leads to.

The modules in ``OWNERS`` own all operations on such paths. Other modules call them, or use the
descriptor of a directory and one name in it. The modules in ``TRUSTED`` use paths that only the
operator or the daemon can change.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import wasmdrop

PACKAGE = Path(wasmdrop.__file__).parent

OWNERS: Final = {
    "intake.tree_walk",
    "system.content_ids",
    "system.openat2",
    "system.tree_removal",
    "system.untrusted_trees",
}

#: Modules and packages, and whose paths they use.
TRUSTED: Final = {
    "cli.fleet": "the directory of keys that the caller names",
    "cli.cid": "files and directories that the caller names",
    "cli.completing": "directories that the caller types, the wasm directory",
    "cli.inspect": "a module that the caller names",
    "cli.init": "the directory that the caller names, a file of the package",
    "cli.input_flags": "files that the caller names",
    "cli.saved_results": "the directory that the caller names",
    "cli.status_report": "the directories that the operator names",
    "cli.named_files": "files that the caller names",
    "service.doctor": "the operator's directories themselves, the kernel's files",
    "system.durable_files": "the state directory; the root of the shared one for doctor",
    "service.full_disk": "the directories that the operator names",
    "service.health.writability": "the directories that the operator names",
    "jobs.journal.changes": "the state directory",
    "jobs.journal.reader": "the state directory",
    "jobs.journal.writer": "the state directory",
    "system.mount_table": "the kernel's mount table, the directories that the operator names",
    "system.private_files": "the state directory",
    "system.secret_files": "the file of a key that the operator names",
    "system.signals": "the terminal",
    "system.trusted_path": "a file that the operator names, and the way to it",
    "page.overview": "the state directory",
    "page.static_files": "the files of the package",
    "service.secret_places": "the directories that the operator names",
    "sandbox": "the state directory, the job's own directory, grants of the operator",
    "jobs.journal.database": "the state directory",
    "service.cancel_requests": "the state directory",
    "service.hooks": "the command that the operator names",
    "service.directories": "the directories that the operator names",
    "service.verify.documents": "documents and files that the caller names",
    "service.run_once": "the state directory",
    "service.work": "the state directory",
    "settings": "the directories that the operator names",
    "intake.volume_monitor": "the directories that the operator names",
}

#: Functions of ``os`` that take a path, unless that is relative to a descriptor.
OF_OS: Final = {
    *("access", "chdir", "chmod", "chown", "getxattr", "link", "listdir", "listxattr", "lstat"),
    *("makedirs", "mkdir", "mkfifo", "mknod", "open", "readlink", "remove", "removedirs"),
    *("removexattr", "rename", "renames", "replace", "rmdir", "scandir", "setxattr", "stat"),
    *("statvfs", "symlink", "truncate", "unlink", "utime", "walk", "fwalk"),
}
OF_OS_PATH: Final = {
    *("exists", "lexists", "isdir", "isfile", "islink", "ismount", "realpath", "samefile"),
    *("getsize", "getmtime", "getctime", "getatime"),
}
#: Methods of paths; with these names nothing else has one that a module uses.
OF_PATHS: Final = {
    *("chmod", "exists", "glob", "group", "hardlink_to", "is_dir", "is_file", "is_mount"),
    *("is_symlink", "iterdir", "lchmod", "lstat", "mkdir", "open", "owner", "read_bytes"),
    *("read_text", "readlink", "rename", "resolve", "rglob", "rmdir", "samefile", "stat"),
    *("symlink_to", "touch", "unlink", "write_bytes", "write_text"),
}
#: Values whose methods of such names are none of a path's.
NO_PATHS: Final = {"openat2", "msgspec.structs", "re"}


def is_of_the_kernel(argument: ast.expr) -> bool:
    """Whether a path is a constant below ``/proc`` or the null device."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    if isinstance(argument, ast.Constant):
        return str(argument.value).startswith("/proc")
    if isinstance(argument, ast.Call) and ast.unparse(argument.func) == "Path":
        return is_of_the_kernel(argument.args[0])
    return ast.unparse(argument) == "os.devnull"


def is_use(call: ast.Call) -> bool:
    """Whether a call looks up a path."""
    if isinstance(call.func, ast.Name):
        is_of_descriptor = any(keyword.arg == "closefd" for keyword in call.keywords)
        return call.func.id == "open" and not is_of_descriptor
    if not isinstance(call.func, ast.Attribute):
        return False
    owner, name = ast.unparse(call.func.value), call.func.attr
    if owner == "shutil":
        return True
    if owner == "os.path":
        return name in OF_OS_PATH
    if owner == "os":
        keywords = {keyword.arg for keyword in call.keywords}
        is_relative = bool(keywords & {"dir_fd", "src_dir_fd"})
        is_of_descriptor = name == "utime" and ast.unparse(call.args[0]) == "fd"
        is_exempt = is_relative or is_of_descriptor
        return name in OF_OS and not is_exempt and not is_of_the_kernel(call.args[0])
    return name in OF_PATHS and owner not in NO_PATHS and not is_of_the_kernel(call.func.value)


def is_handed_on(function: ast.Attribute) -> bool:
    """Whether a function that looks up a path is named without being called."""
    owner, name = ast.unparse(function.value), function.attr
    return (owner == "os" and name in OF_OS) or (owner == "os.path" and name in OF_OS_PATH)


def uses(tree: ast.AST) -> Iterator[str]:
    """Yield each use of a path in a module's source."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        is_found = (
            (isinstance(node, ast.Call) and is_use(node))
            or (isinstance(node, ast.ImportFrom) and node.module in {"io", "os", "shutil"})
            or (isinstance(node, ast.Attribute) and id(node) not in called and is_handed_on(node))
        )
        if is_found:
            yield ast.unparse(node)


def dotted(path: Path) -> str:
    """Return the name of a module below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def is_excepted(name: str) -> bool:
    """Whether a module owns operations on paths, or uses trusted ones."""
    return name in OWNERS or any(name == one or name.startswith(f"{one}.") for one in TRUSTED)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=dotted)
def test_module_uses_no_path_below_the_shared_directory(path: Path) -> None:
    """Only the owners look up paths that others may change meanwhile."""
    if not is_excepted(dotted(path)):
        assert list(uses(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("name", sorted(OWNERS | TRUSTED.keys()))
def test_exception_is_needed(name: str) -> None:
    """A listed module that uses no path must be removed from the list."""
    files = [path for path in PACKAGE.rglob("*.py") if f"{dotted(path)}.".startswith(f"{name}.")]
    assert any(list(uses(ast.parse(path.read_text()))) for path in files)


@pytest.mark.parametrize(
    "source",
    [
        "os.open(path, os.O_RDONLY)",
        "os.stat(f'{directory}/name')",
        "os.path.lexists(path)",
        "shutil.rmtree(path)",
        "path.unlink(missing_ok=True)",
        "Path(path).stat()",
        "os.rename(a, b)",
        "open(path)",
        "os.utime(path)",
        "to_thread(os.stat, path)",
        "from os import stat",
    ],
)
def test_uses_path_lookup_is_found(source: str) -> None:
    """Under any name."""
    assert list(uses(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "os.open(name, os.O_RDONLY, dir_fd=fd)",
        "os.rename(a, b, src_dir_fd=fd, dst_dir_fd=fd)",
        "os.open(f'/proc/self/fd/{fd}', os.O_RDWR)",
        "Path('/proc/self/status').read_text()",
        "openat2.lstat(root, relative)",
        "text.replace('a', 'b')",
        "os.fstat(fd)",
        "open(fd, 'rb', closefd=False)",
    ],
)
def test_uses_descriptor_is_allowed(source: str) -> None:
    """It has one name in a directory, or is one of the kernel's files."""
    assert not list(uses(ast.parse(source)))
