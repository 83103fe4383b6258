"""The example of the configuration file, which commands print."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.setting_values import write
from wasmdrop.cli import config, parser
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.settings import SETTINGS, load
from wasmdrop.settings.example_file import EXAMPLES, GROUPS, example_file

ROOT = Path(__file__).parents[3]


def test_example_has_each_setting_once_by_the_subjects_of_the_page() -> None:
    """A new setting can't be forgotten. The order is that of the page of the configuration."""
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    variables = {setting.variable: setting.name for setting in SETTINGS}
    subjects = {}
    for section in page.split("\n## ")[1:]:
        names = re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE)
        if names:
            subjects[section.partition("\n")[0]] = tuple(variables[name] for name in names)
    assert subjects == GROUPS
    shown = re.findall(r"^#([a-z_]+) = ", example_file({}), re.MULTILINE)
    assert shown == [name for names in GROUPS.values() for name in names]


def test_example_changes_nothing() -> None:
    """Every line is a comment."""
    assert tomllib.loads(example_file({})) == {}


def test_example_without_comments_is_valid_and_has_the_defaults(tmp_path: Path) -> None:
    """Except for the settings that have an example in place of a default."""
    text = re.sub(r"^#(?=[a-z_]+ = )", "", example_file({}), flags=re.MULTILINE)
    loaded = load({}, {"config": str(write(tmp_path / "config.toml", text))})
    plain = load({"WASMDROP_STATE_DIR": "/state"}, {"config": "none"})
    assert set(loaded.origins.values()) == {f"file {tmp_path / 'config.toml'}"}
    for name in plain.settings.__struct_fields__:
        if name not in {*EXAMPLES, "limits", "entry_is_set", "env_args"}:
            assert getattr(loaded.settings, name) == getattr(plain.settings, name), name
    limits = {"fuel": loaded.settings.limits.fuel}
    assert loaded.settings.limits == plain.settings.limits.__replace__(**limits)


def test_example_shows_given_settings_as_they_are_read(tmp_path: Path) -> None:
    """Whatever characters they have."""
    odd = "/a b\"'\\\t\x7f\N{SNOWMAN}\N{CRAB}"
    text = example_file({"wasm_dir": odd, "state_dir": "state", "workers": "7"})
    settings = load({}, {"config": str(write(tmp_path / "config.toml", text))}).settings
    assert settings.wasm_dir == Path(odd)
    assert settings.state_dir == tmp_path / "state"
    assert settings.workers == 7


def test_config_example_has_the_flags_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file may be moved elsewhere. It does not depend on other settings of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WASMDROP_WORKERS", "many")
    flags = ("--wasm-dir", "wasm", "--grants", "lib=lib,sys=/lib", "--on-finished", "/bin/x 'a b'")
    assert config.run(parser.parse(["config", "--example", *flags])) == 0
    assert tomllib.loads(capsys.readouterr().out) == {
        "wasm_dir": str(tmp_path / "wasm"),
        "grants": f"lib={tmp_path / 'lib'},sys=/lib",
        "on_finished": "/bin/x 'a b'",
    }
    for wrong in ("a\nb", "a\udcff"):
        with pytest.raises(SettingsError, match="--wasm-dir: expected printable"):
            config.run(parser.parse(["config", "--example", "--wasm-dir", wrong]))


def test_example_of_the_page_is_read(tmp_path: Path) -> None:
    """With the values that its comments tell."""
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    config_toml = write(tmp_path / "config.toml", block)
    settings = load({"WASMDROP_STATE_DIR": "/state"}, {"config": str(config_toml)}).settings
    assert settings.wasm_dir == tmp_path / "wasm"
    assert settings.on_finished == ("/usr/local/bin/notify", "--quiet")
    assert settings.grants == {"data": Path("/srv/data")}
