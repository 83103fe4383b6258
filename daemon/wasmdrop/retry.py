"""Retry policies: for whatever can fail for a while, such as storage.

One place, so that an operator who reads of a retry in the log finds here how long it goes on.
"""

import errno
from collections.abc import Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

__all__ = ["is_passing", "storage_retry"]

#: Failures of storage that pass: full, read-only for now, a mount that went away or a server that
#: lost its handles; a slot whose directory is gone, or a link for now. All others are of the
#: program, and repeating would only hide them.
_PASSING: Final = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EACCES,
        errno.EPERM,
        errno.EBUSY,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EREMOTEIO,
        errno.ETIMEDOUT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EINTR,
    }
)

#: Longest pause between two tries, in seconds: a disk that has room again is used soon.
_LONGEST_PAUSE_SECONDS: Final = 15.0


def is_passing(error: BaseException) -> bool:
    """Whether ``error`` is a failure of storage that may pass by itself."""
    return isinstance(error, OSError) and error.errno in _PASSING


def storage_retry(
    on_failure: Callable[[RetryCallState], None], gives_up: Callable[[RetryCallState], bool]
) -> AsyncRetrying:
    """Retry while storage fails, pausing ever longer; ``on_failure`` hears of each.

    Goes on until ``gives_up`` says so; then the last failure is raised.
    """
    return AsyncRetrying(
        stop=gives_up,
        retry=retry_if_exception(is_passing),
        wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_PAUSE_SECONDS),
        before_sleep=on_failure,
        reraise=True,
    )
