"""Settings that change while a daemon runs."""

import re
from pathlib import Path

from wasmdrop.settings import RELOADED, RELOADED_BY_WORKERS, SETTINGS, load
from wasmdrop.settings.reloading import change, differences

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"

ENVIRONMENT = {"WASMDROP_STATE_DIR": "/srv/state", "WASMDROP_CONFIG": "none"}


def test_page_lists_each_setting_that_is_reloaded() -> None:
    """No more and no less, for daemons and for workers."""
    _, _, text = PAGE.read_text().partition("## Reload\n")
    text, _, _ = text.partition("\n## ")
    listed = "\n".join(line for line in text.splitlines() if line.startswith(("- ", "  ")))
    assert set(re.findall("`([A-Z_]+)`", listed)) == _variables(RELOADED)
    worker = re.search(r"A worker changes (.*)\.", text)
    assert worker is not None
    assert set(re.findall("`([A-Z_]+)`", worker[1].partition(". ")[0])) == _variables(
        RELOADED_BY_WORKERS
    )


def _variables(names: frozenset[str]) -> set[str]:
    return {setting.variable for setting in SETTINGS if setting.name in names}


def test_change_changes_the_named_settings_alone() -> None:
    """Limits of jobs and arguments have other places in the settings than the rest."""
    settings = load(ENVIRONMENT, {}).settings
    flags = {"timeout_sec": "3", "memory_mb": "7", "args_json": "[1]", "workers": "9"}
    new = load(ENVIRONMENT, {**flags, "attempts": "5"}).settings
    found = differences(settings, new)
    assert found.keys() == {*flags, "attempts"}
    assert found["timeout_sec"] == ("20", "3")
    change(settings, new, frozenset({"timeout_sec", "args_json", "attempts"}))
    assert differences(settings, new).keys() == {"memory_mb", "workers"}
    assert (settings.limits.timeout_sec, settings.env_args, settings.attempts) == (3, (1,), 5)


def test_settings_that_are_the_same_have_no_differences() -> None:
    """So a reload of an unchanged file logs no change."""
    settings = load(ENVIRONMENT, {"grants": "data=/srv/data"}).settings
    assert differences(settings, load(ENVIRONMENT, {"grants": "data=/srv/data"}).settings) == {}
