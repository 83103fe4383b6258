"""Recognize errors of full disks."""

import errno
from typing import Final

#: Errors of a full disk: no bytes or files, or a quota.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_of_full_disk(error: BaseException) -> bool:
    """Whether a full disk caused an error, also if it was raised ``from None``."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
