"""Suggestions for mistyped names."""

from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return the end of a message: the known name that is most like the given one, if any is."""
    near = nearest(given, known)
    return f"; did you mean {near}?" if near else ""


def nearest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like the given one, if any is."""
    import difflib  # noqa: PLC0415 - only errors need it

    return next(iter(difflib.get_close_matches(given, list(known), 1)), None)
