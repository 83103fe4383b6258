"""Messages of daemons that may have been taken over."""

from typing import Any

import msgspec
import pytest

from tests.unit.fleet.worker.messages import MESSAGE
from wasmdrop.fleet.messages import Blob, InvalidMessageError, encode
from wasmdrop.fleet.names import ANY_ENGINE, job_subject
from wasmdrop.fleet.worker.job_request import UnfitJobError, check_request, read_request
from wasmdrop.protocol.limits import Limits
from wasmdrop.sandbox.wire import EngineOptions

SUBJECT = job_subject("p", ANY_ENGINE, "d", "job", 1, 0)


def test_request_under_its_own_subject_is_read() -> None:
    """As it was sent."""
    assert read_request(SUBJECT, encode(MESSAGE), "p", ANY_ENGINE) == MESSAGE


@pytest.mark.parametrize(
    "changes", [{"daemon": "e"}, {"job": "other"}, {"attempt": 2}, {"generation": 1}]
)
def test_request_under_a_foreign_subject_is_invalid(changes: dict[str, Any]) -> None:
    """A daemon may publish under its own name only, and is answered under it."""
    message = msgspec.structs.replace(MESSAGE, **changes)
    with pytest.raises(InvalidMessageError, match=r"expected under wd1\.job\.p\.any\."):
        read_request(SUBJECT, encode(message), "p", ANY_ENGINE)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(timeout_sec=float("nan")),
        Limits(timeout_sec=float("inf")),
        Limits(timeout_sec=0),
        Limits(memory_mb=0),
        Limits(memory_mb=1 << 40),
        Limits(output_mb=float("nan")),
        Limits(disk_mb=-1),
        Limits(fuel=0),
        Limits(fuel=1 << 64),
    ],
)
def test_request_with_impossible_limits_is_unfit(limits: Limits) -> None:
    """No daemon has such settings; they would reach the kernel's limits as they are."""
    with pytest.raises(UnfitJobError, match="its limit"):
        check_request(msgspec.structs.replace(MESSAGE, limits=limits), ANY_ENGINE, 1000)


def test_request_with_a_large_module_is_unfit() -> None:
    """The worker's own setting is the limit, which the message names."""
    large = msgspec.structs.replace(MESSAGE, module=Blob("ab" * 32, 1001))
    with pytest.raises(UnfitJobError, match="WASMDROP_MAX_MODULE_MB"):
        check_request(large, ANY_ENGINE, 1000)
    check_request(MESSAGE, ANY_ENGINE, 1000)


def test_request_of_a_deterministic_job_needs_the_class_of_the_worker() -> None:
    """In the class of any engine it could run with another version of wasmtime."""
    options = EngineOptions(deterministic=True)
    message = msgspec.structs.replace(MESSAGE, options=options)
    check_request(message, "p1-50", 1000)
    with pytest.raises(UnfitJobError, match="deterministic"):
        check_request(message, ANY_ENGINE, 1000)
