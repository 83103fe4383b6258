"""Settings: environment, flags, defaults and refusals."""

import argparse
import json
import os
import pty
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.setting_values import BAD_VALUES, VALUES, value_of
from wasmdrop.cli.config import as_json, rows
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.limits import Limits
from wasmdrop.settings import (
    SETTINGS,
    AfterMode,
    FleetFallback,
    FleetSecurity,
    GuestMode,
    LogFormat,
    SandboxMode,
    Settings,
    Switch,
    WatchMode,
    load,
)
from wasmdrop.settings.loading import _default_state_dir
from wasmdrop.system.job_user import JobUser

#: Makes the tests independent of this machine's state directory.
STATE = {"WASMDROP_STATE_DIR": "/state"}


def read(environ: Mapping[str, str] | None = None, /, **flags: str) -> Settings:
    """Return the settings of an environment and flags."""
    return load({**STATE, **(environ or {})}, flags).settings


def origins(environ: Mapping[str, str] | None = None, /, **flags: str) -> dict[str, str]:
    """Return the origins of the settings of an environment and flags."""
    return load({**STATE, **(environ or {})}, flags).origins


def refusal(environ: Mapping[str, str] | None = None, /, **flags: str) -> str:
    """Return the one line that stops a start."""
    with pytest.raises(SettingsError) as caught:
        load({**STATE, **(environ or {})}, flags)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_load_empty_environment_gives_the_documented_defaults() -> None:
    """All origins are ``default``, except for the state directory."""
    loaded = load(STATE, {})
    assert loaded.settings == Settings(
        wasm_path=Path("/mnt/wasm/module.wasm"),
        input_path=Path("/mnt/shared/input.json"),
        output_path=Path("/mnt/shared/result.txt"),
        wasm_dir=Path("/mnt/wasm"),
        shared_dir=Path("/mnt/shared"),
        state_dir=Path("/state"),
        entry="run",
        entry_is_set=False,
        env_args=None,
        add_x=5,
        add_y=7,
        limits=Limits(timeout_sec=20.0, memory_mb=256, output_mb=8.0, disk_mb=64, fuel=None),
        grants={},
        workers=len(os.sched_getaffinity(0)),
        compile_sec=60.0,
        compile_memory_mb=2048,
        cache_mb=1024,
        max_input_mb=16,
        max_module_mb=256,
        watch=WatchMode.AUTO,
        rescan_sec=60.0,
        poll_sec=1.0,
        settle_sec=0.5,
        module_wait_sec=10.0,
        attempts=3,
        max_queued=100_000,
        directory_running=None,
        directory_queued=None,
        drain_sec=30.0,
        reserve_mb=16,
        let_go_sec=86400.0,
        undelivered_jobs=10_000,
        undelivered_mb=1024,
        keep_days=7.0,
        keep_results_days=None,
        after=AfterMode.KEEP,
        on_finished=None,
        on_finished_secret_file=None,
        journal_mb=1024,
        sandbox=SandboxMode.STRICT,
        guest=GuestMode.AUTO,
        job_user=JobUser(60942, 60942),
        signing_key=None,
        fleet=(),
        fleet_fallback=FleetFallback.LOCAL,
        fleet_name=loaded.settings.fleet_name,
        fleet_pool="default",
        fleet_window=256,
        fleet_key=None,
        fleet_ca=None,
        fleet_security=FleetSecurity.STRICT,
        http=None,
        page=Switch.OFF,
        page_token_file=None,
        log=loaded.settings.log,
        ready_suffix="",
        max_depth=8,
    )
    assert {loaded.origins[s.name] for s in SETTINGS if s.name != "state_dir"} == {"default"}


def test_values_cover_every_setting() -> None:
    """A new setting can't be forgotten here."""
    assert list(VALUES) == [setting.name for setting in SETTINGS]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_load_value_comes_from_variable_or_flag(setting: Any) -> None:
    """The flag wins, and the origin names it."""
    text, value = VALUES[setting.name]
    from_variable = load({**STATE, setting.variable: text}, {})
    assert value_of(from_variable, setting.name) == value
    assert from_variable.origins[setting.name] == f"environment {setting.variable}"
    other = "/z/z.txt" if setting.format.metavar == "PATH" else "nonsense"
    from_flag = load({**STATE, setting.variable: other}, {setting.name: text})
    assert value_of(from_flag, setting.name) == value
    assert from_flag.origins[setting.name] == f"flag {setting.flag}"


@pytest.mark.parametrize(
    ("setting", "text"),
    [(setting, text) for setting in SETTINGS for text in BAD_VALUES.get(setting.name, ())],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_load_invalid_value_is_refused_by_name(setting: Any, text: str) -> None:
    """One line: the variable or flag, what was expected, and the value."""
    given = json.dumps(text, ensure_ascii=False)
    for message, name in (
        (refusal({setting.variable: text}), setting.variable),
        (refusal(**{setting.name: text}), setting.flag),
    ):
        assert message.startswith(f"{name}: expected {setting.format.expected}, got {given}")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"WASMDROP_WORKERS": "many"},
            'WASMDROP_WORKERS: expected an integer from 1 to 1024, got "many"',
        ),
        ({"WASMDROP_WATCH": "x"}, 'WASMDROP_WATCH: expected auto, events or poll, got "x"'),
        (
            {"TIMEOUT_SEC": "0"},
            'TIMEOUT_SEC: expected a number of seconds, more than 0 and at most 604800, got "0"',
        ),
        (
            {"ARGS_JSON": "[1,\n NaN]"},
            (
                'ARGS_JSON: expected a JSON array, got "[1,\\n NaN]" (line 2, column 2, at $[1]:'
                ' NaN is not JSON; as an argument write "NaN", in quotes)'
            ),
        ),
        ({"ENTRY": "a\udcff"}, 'ENTRY: expected a name, got "a\\udcff"'),
    ],
)
def test_load_invalid_value_message_is_one_sentence(environ: dict[str, str], message: str) -> None:
    """The exact wording."""
    assert refusal(environ) == message


@given(
    st.dictionaries(st.sampled_from([s.variable for s in SETTINGS] + ["ARG_0", "ARG_1"]), st.text())
)
def test_load_any_environment_gives_settings_or_one_line(environ: dict[str, str]) -> None:
    """No other exception is raised."""
    try:
        loaded = load({**STATE, **environ}, {})
    except SettingsError:
        assert refusal(environ)
    else:
        assert len(rows(loaded)) == 1 + len(SETTINGS)
        json.loads(as_json(loaded))


def test_load_empty_variable_counts_as_not_set() -> None:
    """Compose files and manifests set such variables."""
    empty = {s.variable: "" for s in SETTINGS if s.name not in {"state_dir", "log"}}
    assert read(empty) == read()
    assert origins(empty) == origins()


def test_load_empty_flag_counts_as_a_value() -> None:
    """An empty flag is deliberate."""
    assert refusal(wasm_path="") == '--wasm-path: expected a path, got ""'
    assert read({"WASMDROP_READY_SUFFIX": ".ready"}, ready_suffix="").ready_suffix == ""


def test_load_none_and_off_disable_fuel_and_http() -> None:
    """A flag can override the environment with them."""
    assert read({"WASMDROP_FUEL": "5"}, fuel="none").limits.fuel is None
    assert read({"WASMDROP_HTTP": ":80"}, http="off").http is None


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("WASMDROP_WORKER", "WASMDROP_WORKERS"),
        ("WASMDROP_TIMEOUT_SEC", "TIMEOUT_SEC"),
        ("WASMDROP_COMPILE_MEM_MB", "WASMDROP_COMPILE_MEMORY_MB"),
        ("WASMDROP_HTTP_PORT", "WASMDROP_HTTP"),
    ],
)
def test_load_unknown_variable_is_refused_with_a_suggestion(name: str, near: str) -> None:
    """A misspelt setting would otherwise have no effect."""
    assert refusal({name: "1"}) == f"{name}: no setting of this name; did you mean {near}?"


def test_load_unlike_variable_is_refused_without_a_suggestion() -> None:
    """A far-fetched suggestion would mislead."""
    assert refusal({"WASMDROP_XYZZY": ""}) == "WASMDROP_XYZZY: no setting of this name"


def test_load_variables_without_the_prefix_are_ignored() -> None:
    """Other programs may use them."""
    assert read({"PATH": "/bin", "WASM_DROP_X": "1", "TIMEOUT": "x", "ARG_X": "1"}) == read()


@pytest.mark.parametrize("value", ["process", "instance"])
def test_load_removed_variable_is_refused_with_the_reason(value: str) -> None:
    """Whatever its value: an operator who relied on it must know."""
    assert refusal({"WASMDROP_ISOLATION": value}) == (
        "WASMDROP_ISOLATION: this setting was removed: each job has a process of its own; unset"
        " the variable"
    )


def test_load_unknown_flag_is_refused() -> None:
    """The caller may not have used `given_flags`."""
    assert refusal(wrokers="1") == "wrokers: no flag of this name"


@pytest.mark.parametrize("service", ["WASMDROP", "WASMDROP_METRICS_2"])
def test_load_kubernetes_service_links_are_ignored(service: str) -> None:
    """A Service named wasmdrop would otherwise stop every daemon of its namespace."""
    links = {
        "SERVICE_HOST": "10.0.0.7",
        "SERVICE_PORT": "8080",
        "SERVICE_PORT_HTTP": "8080",
        "PORT": "tcp://10.0.0.7:8080",
        "PORT_8080_TCP": "tcp://10.0.0.7:8080",
        "PORT_8080_TCP_PROTO": "tcp",
        "PORT_8080_TCP_PORT": "8080",
        "PORT_8080_TCP_ADDR": "10.0.0.7",
    }
    assert read({f"{service}_{name}": value for name, value in links.items()}) == read()
    assert "no setting" in refusal({f"{service}_PORT": "8080"})


def paths(environ: dict[str, str]) -> dict[str, str]:
    """Return the five paths of drops and results that differ from the default."""
    before, after = read(), read(environ)
    names = ("wasm_path", "wasm_dir", "input_path", "output_path", "shared_dir")
    return {
        name: str(getattr(after, name))
        for name in names
        if getattr(after, name) != getattr(before, name)
    }


@pytest.mark.parametrize(
    ("environ", "moved"),
    [
        ({"WASM_PATH": "/w/m.wasm"}, {"wasm_path": "/w/m.wasm", "wasm_dir": "/w"}),
        ({"WASMDROP_WASM_DIR": "/w"}, {"wasm_path": "/w/module.wasm", "wasm_dir": "/w"}),
        (
            {"WASMDROP_WASM_DIR": "/w", "WASM_PATH": "/v/m.wasm"},
            {"wasm_path": "/v/m.wasm", "wasm_dir": "/w"},
        ),
        (
            {"WASMDROP_SHARED_DIR": "/s"},
            {"input_path": "/s/input.json", "output_path": "/s/result.txt", "shared_dir": "/s"},
        ),
        (
            {"WASMDROP_SHARED_DIR": "/s", "INPUT_PATH": "/cm/in.json"},
            {"input_path": "/cm/in.json", "output_path": "/s/result.txt", "shared_dir": "/s"},
        ),
        (
            {"WASMDROP_SHARED_DIR": "/s", "OUTPUT_PATH": "/s/sub/out.json"},
            {"input_path": "/s/input.json", "output_path": "/s/sub/out.json", "shared_dir": "/s"},
        ),
        (
            {"OUTPUT_PATH": "/s/out.json"},
            {"input_path": "/s/input.json", "output_path": "/s/out.json", "shared_dir": "/s"},
        ),
        ({"INPUT_PATH": "/cm/in.json"}, {"input_path": "/cm/in.json"}),
    ],
)
def test_load_paths_directories_follow_files_and_vice_versa(
    environ: dict[str, str], moved: dict[str, str]
) -> None:
    """A path that was given explicitly does not move."""
    assert paths(environ) == moved


def test_load_derived_path_has_the_origin_of_its_source() -> None:
    """``config`` then explains why it is not the default."""
    found = origins({"WASM_PATH": "/w/m.wasm"}, shared_dir="/s")
    assert found["wasm_dir"] == "environment WASM_PATH"
    assert found["input_path"] == found["output_path"] == "flag --shared-dir"


def test_load_relative_path_becomes_absolute_and_keeps_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link of a ConfigMap must be followed again at each use."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    found = read({"WASM_PATH": "link/../link/m.wasm", "WASMDROP_SHARED_DIR": "link"})
    assert found.wasm_path == tmp_path / "link/m.wasm"
    assert found.shared_dir == tmp_path / "link"


def test_load_path_may_have_any_bytes() -> None:
    """It is shown escaped and used unchanged."""
    name = os.fsdecode(b"/s/\xff")
    loaded = load({**STATE, "WASMDROP_SHARED_DIR": name}, {})
    assert os.fsencode(loaded.settings.shared_dir) == b"/s/\xff"
    assert ("WASMDROP_SHARED_DIR", "/s/\\udcff", "environment WASMDROP_SHARED_DIR") in rows(loaded)
    assert "/s/" in as_json(loaded)


@pytest.mark.parametrize("name", ["INPUT_PATH", "WASM_PATH"])
@pytest.mark.parametrize("suffix", [".json", ".txt", ".done", ".stdout", ".stderr", ".output"])
def test_load_output_path_that_overwrites_a_drop_is_refused(name: str, suffix: str) -> None:
    """A job's result would be the next job's input, forever."""
    assert refusal({"OUTPUT_PATH": "/s/out.txt", name: f"/s/out{suffix}"}) == (
        f"{name}: /s/out{suffix} would be overwritten by a result of OUTPUT_PATH (/s/out.txt)"
    )


def test_load_grants_are_directories_by_name() -> None:
    """In the given order; shown as they are set."""
    text = "pylib=/usr/lib/python-wasi,data-1=/srv/a=b"
    loaded = load({**STATE, "WASMDROP_GRANTS": text}, {})
    grants = {"pylib": Path("/usr/lib/python-wasi"), "data-1": Path("/srv/a=b")}
    assert loaded.settings.grants == grants
    assert ("WASMDROP_GRANTS", text, "environment WASMDROP_GRANTS") in rows(loaded)
    assert json.loads(as_json(loaded))["WASMDROP_GRANTS"]["value"] == {
        name: str(path) for name, path in grants.items()
    }
    assert read({"WASMDROP_GRANTS": text}, grants="none").grants == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/srv/data", 'got "/srv/data" (in "/srv/data")'),
        ("a=/x,,b=/y", '(in "")'),
        ("a=/x,b", '(in "b")'),
        ("..=/x", '(in "..=/x")'),
        ("a/b=/x", '(in "a/b=/x")'),
        ("=/x", '(in "=/x")'),
        ("a=", 'expected none or a comma-separated list of NAME=DIR, got "a="'),
        ("a=/x,a=/y", "(a is repeated)"),
        (",".join(f"n{number}=/x" for number in range(17)), "(at most 16)"),
    ],
)
def test_load_invalid_grants_are_refused(text: str, words: str) -> None:
    """The message has the invalid part."""
    message = refusal({"WASMDROP_GRANTS": text})
    assert message.startswith("WASMDROP_GRANTS: expected ")
    assert words in message


@pytest.mark.parametrize("path", ["/", "/state", "/state/modules", "/state/../state"])
def test_load_grant_of_the_state_directory_is_refused(path: str) -> None:
    """It contains inputs of others, and trusted machine code."""
    message = refusal({"WASMDROP_GRANTS": f"all={path}"})
    assert message.startswith("WASMDROP_GRANTS: all (/")
    assert "WASMDROP_STATE_DIR (/state)" in message


def test_load_args_json_wins_over_numbered_arguments() -> None:
    """``ARG_0`` and so on are ignored then."""
    environ = {"ARGS_JSON": "[[1], 2.0]", "ARG_0": "9", "ARG_7": "9"}
    assert read(environ).env_args == ([1], 2.0)
    assert read({"ARG_0": "9"}, args_json="[]").env_args == ()


def test_load_numbered_arguments_are_json_scalars_or_text() -> None:
    """In numerical order, also beyond ten."""
    texts = [
        "12",
        "-1.5",
        "true",
        "null",
        '"12"',
        "fib",
        "",
        "[1]",
        '{"a":1}',
        "NaN",
        "1e999",
        " 7",
    ]
    environ = {f"ARG_{number}": text for number, text in enumerate(texts)}
    expected = (12, -1.5, True, None, "12", "fib", "", "[1]", '{"a":1}', "NaN", "1e999", 7)
    found = read(dict(reversed(environ.items()))).env_args
    assert repr(found) == repr(expected)
    assert origins(environ)["args_json"] == "environment ARG_0 to ARG_11"
    assert origins({"ARG_0": "1"})["args_json"] == "environment ARG_0"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 2), "ARG_1: expected a value, because ARG_2 is set"),
        ((1,), "ARG_0: expected a value, because ARG_1 is set"),
        ((0, 1, 3, 11), "ARG_2: expected a value, because ARG_3 is set"),
    ],
)
def test_load_gap_between_numbered_arguments_is_refused(
    numbers: tuple[int, ...], message: str
) -> None:
    """Arguments after it would be lost silently."""
    assert refusal({f"ARG_{number}": "1" for number in numbers}) == message


def test_load_argument_that_is_not_utf8_is_refused() -> None:
    """It can't be written into a result."""
    assert refusal({"ARG_0": os.fsdecode(b"\xff")}).startswith("ARG_0: expected ")


def test_load_given_entry_differs_from_the_default() -> None:
    """Also if it is the same name."""
    assert read({"ENTRY": "run"}).entry_is_set
    assert read(entry="run").entry_is_set
    assert not read().entry_is_set


def state(environ: dict[str, str]) -> tuple[str, str]:
    """Return the state directory and its origin."""
    loaded = load(environ, {})
    return str(loaded.settings.state_dir), loaded.origins["state_dir"]


def test_state_directory_is_the_given_one_else_that_of_systemd() -> None:
    """Systemd may give a list, of which the first counts (systemd.exec(5))."""
    systemd = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/h"}
    assert state({**STATE, **systemd}) == ("/state", "environment WASMDROP_STATE_DIR")
    assert state(systemd) == ("/var/lib/a", "systemd STATE_DIRECTORY")


def test_state_directory_default_is_the_first_writable_one(tmp_path: Path) -> None:
    """That of the system, else the user's by the XDG Base Directory Specification."""
    home = {"HOME": "/h"}
    (tmp_path / "there").mkdir()
    assert _default_state_dir(home, tmp_path / "there") == (tmp_path / "there", "default")
    unmakable = tmp_path / "none/wasmdrop"
    users = (Path("/h/.local/state/wasmdrop"), "default")
    assert _default_state_dir(home, unmakable) == users
    assert _default_state_dir({**home, "XDG_STATE_HOME": "relative"}, unmakable) == users
    assert _default_state_dir({**home, "XDG_STATE_HOME": "/x"}, unmakable) == (
        Path("/x/wasmdrop"),
        "environment XDG_STATE_HOME",
    )
    missing = tmp_path / "missing"
    made_by_root = (missing, "default") if os.geteuid() == 0 else users
    assert _default_state_dir(home, missing) == made_by_root


def test_state_directory_of_a_worker_is_beside_that_of_a_daemon(tmp_path: Path) -> None:
    """Both run on one host without a setting; a setting wins as ever."""
    there = tmp_path / "wasmdrop-worker"
    there.mkdir()
    home = {"HOME": "/h"}
    assert _default_state_dir(home, there) == (there, "default")
    missing = tmp_path / "none/wasmdrop-worker"
    assert _default_state_dir(home, missing)[0] == Path("/h/.local/state/wasmdrop-worker")
    assert load(home, {}, "wasmdrop-worker").settings.state_dir.name == "wasmdrop-worker"
    given = load({**home, "WASMDROP_STATE_DIR": "/state"}, {}, "wasmdrop-worker")
    assert given.settings.state_dir == Path("/state")


def test_state_directory_without_any_candidate_is_refused(tmp_path: Path) -> None:
    """A container without HOME and without a volume."""
    with pytest.raises(SettingsError, match=r"^WASMDROP_STATE_DIR: expected a path, .* HOME"):
        _default_state_dir({}, tmp_path / "none/wasmdrop")


@pytest.mark.parametrize("below", ["", "/state", "/a/../b"])
@pytest.mark.parametrize("kind", ["WASM", "SHARED"])
def test_state_directory_where_others_can_write_is_refused(kind: str, below: str) -> None:
    """Their files would be run as native code."""
    environ = {f"WASMDROP_{kind}_DIR": "/data", "WASMDROP_STATE_DIR": f"/data{below}"}
    place = os.path.normpath(f"/data{below}")
    assert refusal(environ) == (
        f"WASMDROP_STATE_DIR: {place} is inside WASMDROP_{kind}_DIR (/data), where others can"
        " write; compiled code must be in a private directory"
    )
    assert read({**environ, "WASMDROP_STATE_DIR": "/data2"}).state_dir == Path("/data2")


def test_load_refused_path_or_name_stays_in_one_line() -> None:
    """Also if it has line breaks or terminal escapes."""
    for environ in (
        {"WASMDROP_SHARED_DIR": "/a\n\x1b", "WASMDROP_STATE_DIR": "/a\n\x1b/s"},
        {"OUTPUT_PATH": "/a\n\x1b/input.txt"},
        {"WASMDROP_\n\x1b": ""},
    ):
        assert "\\n\\x1b" in refusal(environ)


def test_state_directory_behind_a_link_is_refused(tmp_path: Path) -> None:
    """Neither one that leads into the shared directory nor one in it that leads out."""
    shared = tmp_path / "shared"
    (shared / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "in").symlink_to(shared / "inside")
    (shared / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(shared)
    for directory, place in ((shared, "in"), (shared, "shared/out"), (tmp_path / "alias", "in")):
        environ = {
            "WASMDROP_SHARED_DIR": str(directory),
            "WASMDROP_STATE_DIR": str(tmp_path / place),
        }
        assert "where others can write" in refusal(environ)


def test_log_default_is_console_on_a_terminal_and_json_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Standard error decides; it may be closed altogether."""
    master, slave = pty.openpty()
    with (
        os.fdopen(master, "rb"),
        os.fdopen(slave, "w") as terminal,
        Path(os.devnull).open() as null,
    ):
        for stream, expected in (
            (terminal, LogFormat.CONSOLE),
            (null, LogFormat.JSON),
            (None, LogFormat.JSON),
        ):
            monkeypatch.setattr(sys, "stderr", stream)
            assert read().log is expected


def test_given_flags_without_flag_lacks_it() -> None:
    """Other flags of the same command are left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--verbose", default="x")
    add_flags(parser)
    assert given_flags(parser.parse_args([])) == {}
    parsed = parser.parse_args(["--workers", "3", "--ready-suffix", "", "--max-queued=5"])
    assert given_flags(parsed) == {"workers": "3", "ready_suffix": "", "max_queued": "5"}


def test_flags_are_parsed_and_explained_in_the_help() -> None:
    """With the variable of the same meaning and the default."""
    parser = argparse.ArgumentParser(prog="x")
    add_flags(parser)
    line = [part for name, (text, _) in VALUES.items() for part in (flag_of(name), text)]
    line = [f"{flag}={text}" for flag, text in zip(line[::2], line[1::2], strict=True)]
    assert given_flags(parser.parse_args(line)) == {
        name: text for name, (text, _) in VALUES.items()
    }
    words = re.sub(r"\s+", " ", parser.format_help())
    for setting in SETTINGS:
        assert f"{setting.help}" in words
        assert f"[{setting.variable}]" in words
    assert "wall-clock time (default: 20) [TIMEOUT_SEC]" in words


def flag_of(name: str) -> str:
    """Return the flag of one row of the table."""
    return next(setting.flag for setting in SETTINGS if setting.name == name)


def test_config_rows_and_json_show_values_and_origins() -> None:
    """One row per setting, and the same as JSON."""
    loaded = load(
        {**STATE, "TIMEOUT_SEC": "1.5", "ARG_0": "x", "WASMDROP_GUEST": "python"},
        {"sandbox": "best-effort", "config": "none"},
    )
    shown = rows(loaded)
    assert [row[0] for row in shown] == [
        "WASMDROP_CONFIG",
        *(setting.variable for setting in SETTINGS),
    ]
    for row in (
        ("WASMDROP_CONFIG", "none", "flag --config"),
        ("WASM_PATH", "/mnt/wasm/module.wasm", "default"),
        ("ARGS_JSON", '["x"]', "environment ARG_0"),
        ("TIMEOUT_SEC", "1.5", "environment TIMEOUT_SEC"),
        ("WASMDROP_RESCAN_SEC", "60", "default"),
        ("WASMDROP_MAX_QUEUED", "100000", "default"),
        ("WASMDROP_FUEL", "none", "default"),
        ("WASMDROP_HTTP", "off", "default"),
        ("WASMDROP_GUEST", "python (in use: python)", "environment WASMDROP_GUEST"),
        ("WASMDROP_SANDBOX", "best-effort", "flag --sandbox"),
    ):
        assert row in shown
    found = json.loads(as_json(loaded))
    assert list(found) == ["WASMDROP_CONFIG", *(setting.variable for setting in SETTINGS)]
    guest = {"value": "python", "origin": "environment WASMDROP_GUEST", "in_use": "python"}
    assert found["WASMDROP_GUEST"] == guest
    assert found["ARGS_JSON"] == {"value": ["x"], "origin": "environment ARG_0"}
    assert found["TIMEOUT_SEC"] == {"value": 1.5, "origin": "environment TIMEOUT_SEC"}
    assert found["WASMDROP_FUEL"] == {"value": None, "origin": "default"}
    assert found["WASM_PATH"]["value"] == "/mnt/wasm/module.wasm"
    assert found["WASMDROP_SANDBOX"]["value"] == "best-effort"
