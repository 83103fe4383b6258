"""Check for files that are ignored because their names are almost those of inputs or modules."""

import os
import stat
from collections.abc import Iterator

from wasmdrop.intake.layout import Layout, RootedPath
from wasmdrop.intake.tree_walk import walk
from wasmdrop.service.doctor.finding import Finding, ok, warning
from wasmdrop.settings import Settings

_AREA = "mounts"
_CHECK = "names of files"


def examine(settings: Settings) -> list[Finding]:
    """Check the names in the shared and the wasm directory."""
    layout = Layout(settings)
    roots = dict.fromkeys((layout.shared_dir, layout.wasm_dir))
    count = 0
    first = ""
    for root in filter(os.path.isdir, roots):
        for path, reason in _ignored(layout, root, settings.max_depth):
            count += 1
            first = first or f"{path}: {reason}"
    if not count:
        return [ok(_AREA, _CHECK, "none is ignored for a name like that of an input or a module")]
    found = f"{count} ignored for a name like that of an input or a module, or for their depth"
    advice = f"rename or move them, such as {first}"
    return [warning(_AREA, _CHECK, found, advice)]


def _ignored(layout: Layout, root: str, max_depth: int) -> Iterator[tuple[str, str]]:
    """Yield the ignored paths, each with the reason."""
    deep: list[tuple[str, str]] = []

    def on_too_deep(path: str) -> None:
        reason = layout.why_too_deep(path)
        if reason is not None:
            deep.append((path, reason))

    place = RootedPath(root, "")
    for batch in walk(
        place, max_depth, lambda _path: False, lambda _path, _fd: None, on_too_deep=on_too_deep
    ):
        for name, status in batch.statuses(layout.may_matter):
            path = f"{batch.path}/{name}"
            reason = None if stat.S_ISDIR(status.st_mode) else layout.why_ignored(path)
            if reason is not None:
                yield path, reason
        yield from deep
        deep.clear()
