"""Blocking steps that must not be abandoned halfway."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


async def on_thread(
    function: Callable[_Params, _Result], *args: _Params.args, **kwargs: _Params.kwargs
) -> _Result:
    """Call a function that blocks on a thread.

    Unlike ``asyncio.to_thread``, a caller that is cancelled waits for its end, and can then close
    the files that it used.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
