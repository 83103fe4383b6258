"""A container engine with its own images and without a daemon, a network or a registry."""

import contextlib
import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.daemon import environment
from tests.support.deploy.base import CACHE, ROOT, base_root, wheels
from tests.support.require import require_root, require_tools

IMAGE: Final = "localhost/wasmdrop:test"

#: Inside another container the engine can neither create networks nor raise limits. Confinement
#: (seccomp, capabilities, namespaces) is the engine's default.
_CONFIGURATION: Final = """\
[containers]
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "here"
[engine.runtimes]
here = ["{runtime}"]
"""

#: Nor can it put containers into control groups, which podman requires for pods.
_RUNTIME: Final = """\
#!/bin/sh
exec crun --cgroup-manager=disabled "$@"
"""

#: The engine requires a mount of control groups, version 2 only.
_INSIDE: Final = """\
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec "$@"
"""


class Engine:
    """podman and buildah with storage of their own."""

    def __init__(self, base: Path) -> None:
        self._configuration = base / "containers.conf"
        runtime = base / "runtime"
        runtime.write_text(_RUNTIME)
        runtime.chmod(0o755)
        self._configuration.write_text(_CONFIGURATION.format(runtime=runtime))
        self.storage = ("--root", str(CACHE / "storage"), "--runroot", str(CACHE / "run"))

    def command(self, *command: str) -> list[str]:
        """Return a command line that runs an engine's command in a suitable mount namespace."""
        return ["unshare", "--mount", "sh", "-ec", _INSIDE, "sh", *command]

    def environment(self) -> dict[str, str]:
        """Return the environment for such a command."""
        return environment(CONTAINERS_CONF=str(self._configuration))

    def podman(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run podman; fail if it does, unless ``check`` is false."""
        return self._run("podman", *self.storage, *arguments, check=check)

    def clear(self) -> None:
        """Remove all pods, containers and volumes."""
        self.podman("pod", "rm", "--all", "--force", "--time=0")
        self.podman("rm", "--all", "--force", "--volumes", "--time=0")
        self.podman("volume", "prune", "--force")

    def build(self) -> None:
        """Build the image of the Dockerfile from wheels, on the small Debian."""
        base, packages = self._base(has_compiler=False), wheels()
        arguments = {"PYTHON_IMAGE": base, "BUILD_IMAGE": self._base(has_compiler=True)}
        arguments |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        # The format is the engine's default, OCI, which has no health check.
        options += ["--isolation=chroot", "--layers", f"--tag={IMAGE}"]
        options += ["--build-arg=VERSION=9.8.7", "--build-arg=REVISION=4f5e6a7b8c"]
        options += [f"--volume={packages}:/wheels:ro"]
        self._run("buildah", *self.storage, "bud", *options, str(ROOT), check=True)

    def _base(self, *, has_compiler: bool) -> str:
        """Return the name of the image of the small Debian."""
        lower = base_root(has_compiler=has_compiler)
        base = f"localhost/wasmdrop-base:{lower.name}"
        if self.podman("image", "exists", base, check=False).returncode != 0:
            command = self.command("podman", *self.storage, "import", "--quiet", "-", base)
            tar = ["tar", "-C", str(lower), "-c", "."]
            with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
                subprocess.run(command, stdin=archive.stdout, env=self.environment(), check=True)
            assert archive.returncode == 0
        return base

    def _run(self, *command: str, check: bool) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            self.command(*command),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, (command, done.stdout, done.stderr)
        return done


@contextlib.contextmanager
def engine(base: Path) -> Iterator[Engine]:
    """Give an engine with the image built, to one test process at a time."""
    require_root()
    require_tools("podman", "buildah", "crun", "unshare", "tar")
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (CACHE / "engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        it = Engine(base)
        try:
            it.clear()
        except AssertionError:
            # A run that was killed can leave containers that the engine can't remove.
            shutil.rmtree(CACHE / "storage")
            shutil.rmtree(CACHE / "run")
        it.build()
        try:
            yield it
        finally:
            it.clear()
            # Keeps recent layers, from which the next build starts.
            it.podman("image", "prune", "--force", "--filter=until=24h", check=False)
