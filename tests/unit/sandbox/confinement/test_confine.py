"""Unit tests of the confinement of a native zygote, as data."""

import os
import resource
from typing import Any, Final

import pytest

from wasmdrop.sandbox.confinement import landlock
from wasmdrop.sandbox.confinement.confine import Confinement, ZygoteConfinement
from wasmdrop.sandbox.confinement.seccomp import SeccompFilter
from wasmdrop.sandbox.confinement.syscalls import Role

FILE_BYTES: Final = 5000
DATA_BYTES: Final = 1 << 28


def described(confinement: Confinement | None = None, **changes: Any) -> ZygoteConfinement:
    """Describe a zygote of a module without WASI and directories, or with ``changes``."""
    given = {"threads": False, "has_directory": False, "has_grants": False, **changes}
    it = confinement or Confinement()
    return it.describe_zygote(file_bytes=FILE_BYTES, data_bytes=DATA_BYTES, **given)


def limits_of(found: ZygoteConfinement) -> dict[int, tuple[int, int]]:
    """Return the soft and hard limits, by resource."""
    return {kind: (soft, hard) for kind, soft, hard in found.limits}


@pytest.mark.parametrize(
    ("has_directory", "has_grants", "roles"),
    [
        (False, False, (Role.ZYGOTE, Role.RUNNING, Role.ZYGOTE_CHILD)),
        (
            *(True, False),
            (
                Role.ZYGOTE_WITH_DIRECTORIES,
                Role.RUNNING_WITH_DIRECTORY,
                Role.ZYGOTE_CHILD_WITH_DIRECTORY,
            ),
        ),
        (
            *(True, True),
            (
                Role.ZYGOTE_WITH_DIRECTORIES,
                Role.RUNNING_WITH_DIRECTORY,
                Role.ZYGOTE_CHILD_WITH_GRANTS,
            ),
        ),
    ],
)
def test_zygote_has_the_filters_of_its_roles(
    *, has_directory: bool, has_grants: bool, roles: tuple[Role, ...]
) -> None:
    """Its own, that after loading, and that of its children."""
    found = described(has_directory=has_directory, has_grants=has_grants)
    assert found.filters == tuple(SeccompFilter(role).code for role in roles)


def test_zygote_on_a_kernel_without_filters_has_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon has refused to start, or its operator allows that."""
    it = Confinement()
    monkeypatch.setattr(it, "_filters", {})
    assert described(it).filters == (b"", b"", b"")


def test_zygote_has_the_limits_of_a_job() -> None:
    """Except for those of processor time and of processes, which its children set."""
    limits = limits_of(described())
    assert limits[resource.RLIMIT_FSIZE] == (FILE_BYTES, FILE_BYTES)
    assert limits[resource.RLIMIT_DATA] == (DATA_BYTES, DATA_BYTES)
    nothing = (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE)
    assert [limits[kind] for kind in nothing] == [(0, 0)] * 3
    assert limits[resource.RLIMIT_NOFILE][1] <= 64
    assert limits[resource.RLIMIT_NPROC][0] > 0
    assert resource.RLIMIT_CPU not in limits


def test_child_of_a_zygote_may_start_threads_only_for_wasi() -> None:
    """Other modules have no use for them."""
    assert described(threads=False).child_processes == 0
    found = described(threads=True)
    assert found.child_processes == limits_of(found)[resource.RLIMIT_NPROC][0]


def test_processes_of_more_jobs_than_cores_have_a_higher_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each job may have a thread per core and a few more, and there are idle children."""
    cores = os.cpu_count() or 1

    def limit(jobs: int) -> int:
        it = Confinement(jobs=jobs)
        monkeypatch.setattr(it, "_ceilings", dict.fromkeys(it._ceilings, resource.RLIM_INFINITY))
        return limits_of(described(it))[resource.RLIMIT_NPROC][0]

    assert limit(1) == limit(cores)
    assert limit(1000 + cores) - limit(cores) >= 1000 * (cores + 3)


def test_limits_of_a_zygote_do_not_exceed_those_of_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process may not raise them, so the zygote would fail."""
    it = Confinement()
    monkeypatch.setattr(it, "_ceilings", dict.fromkeys(it._ceilings, 40))
    found = described(it, threads=True)
    assert all(soft <= 40 and hard <= 40 for _kind, soft, hard in found.limits)
    assert found.child_processes == 40
    assert found.highest_cpu_seconds == 40


def test_limit_of_processor_time_that_is_infinite_is_the_largest_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python calls it -1, which the program would read as no time at all."""
    it = Confinement()
    monkeypatch.setattr(it, "_ceilings", dict.fromkeys(it._ceilings, resource.RLIM_INFINITY))
    assert described(it).highest_cpu_seconds == (1 << 64) - 1


@pytest.mark.parametrize("version", range(9))
def test_rights_of_any_version_of_landlock_are_those_that_it_knows(version: int) -> None:
    """The kernel rejects others."""
    rights = landlock.rights_of(version)
    known = {0: 0, 1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    assert rights.version == version
    assert rights.files == (1 << known) - 1
    assert rights.own_directory & ~rights.files == 0
    assert rights.network == (0b11 if version >= 4 else 0)
    assert rights.scopes == (0b11 if version >= 6 else 0)


def test_rights_of_files_and_directories_are_no_more_than_needed() -> None:
    """Bits of linux/landlock.h: execute 0, write 1, read 2, list 3, devices and sockets 6, 9-11."""
    rights = landlock.rights_of(8)
    assert rights.readable == 0b100
    assert rights.grant == 0b1100
    forbidden = sum(1 << bit for bit in (0, 6, 9, 10, 11, 15))
    assert rights.own_directory & forbidden == 0
    assert rights.own_directory | forbidden == rights.files
