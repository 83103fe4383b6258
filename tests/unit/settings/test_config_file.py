"""The configuration file: where it is looked for, what its values mean, and what is refused."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.require import require_root
from tests.support.setting_values import BAD_VALUES, VALUES, value_of, write
from tests.support.users import ALICE, shared_base
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.settings import SETTINGS, Loaded, config_file, load

STATE = {"WASMDROP_STATE_DIR": "/state"}


@pytest.fixture(autouse=True)
def no_file_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests independent of a file of this host."""
    monkeypatch.setattr(config_file, "SYSTEM_DIRECTORY", tmp_path / "etc")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the path of a file, in a directory of this user alone."""
    path = tmp_path / "own" / "config.toml"
    path.parent.mkdir(mode=0o755)
    return path


def read(path: Path, environ: Mapping[str, str] | None = None, /, **flags: str) -> Loaded:
    """Return the settings of a file, an environment and flags."""
    return load({**STATE, **(environ or {})}, {"config": str(path), **flags})


def refusal(path: Path, environ: Mapping[str, str] | None = None, /, **flags: str) -> str:
    """Return the one line that stops a start."""
    with pytest.raises(SettingsError) as caught:
        read(path, environ, **flags)
    message = str(caught.value)
    assert "\n" not in message
    return message


def quoted(text: str) -> str:
    """Return a literal string of TOML."""
    return f"'''{text}'''"


# --- Values


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_value_means_the_same_in_file_environment_and_flag(file: Path, setting: Any) -> None:
    """A string is read as the text of a variable. Environment and flags win over the file."""
    text, value = VALUES[setting.name]
    write(file, f"{setting.name} = {quoted(text)}\n")
    without_state = {"XDG_STATE_HOME": "/xdg"} if setting.name == "state_dir" else STATE
    loaded = load(without_state, {"config": str(file)})
    assert value_of(loaded, setting.name) == value
    assert loaded.origins[setting.name] == f"file {file}"
    assert loaded.config_file == file
    other = "/z/z.txt" if setting.format.metavar == "PATH" else "nonsense"
    write(file, f"{setting.name} = {quoted(text)}\n")
    from_environment = load({**STATE, setting.variable: text}, {"config": str(file)})
    assert from_environment.origins[setting.name] == f"environment {setting.variable}"
    from_flag = read(file, {setting.variable: other}, **{setting.name: text})
    assert from_flag.origins[setting.name] == f"flag {setting.flag}"


@pytest.mark.parametrize(
    ("setting", "text"),
    [(setting, text) for setting in SETTINGS for text in BAD_VALUES.get(setting.name, ())],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_value_that_a_variable_refuses_is_refused(file: Path, setting: Any, text: str) -> None:
    """One line: the file, the line, the key, what was expected, and the value."""
    write(file, f"\n{setting.name} = {quoted(text)}\n")
    message = refusal(file)
    expected = f"{file}, line 2: {setting.name}: expected {setting.format.expected}, got "
    assert message.startswith(expected)


@pytest.mark.parametrize(
    ("name", "native", "value"),
    [
        ("args_json", "[1, 'a', 2.5, true, {b = [1]}]", (1, "a", 2.5, True, {"b": [1]})),
        ("args_json", "[]", ()),
        ("timeout_sec", "1.5", 1.5),
        ("timeout_sec", "20", 20.0),
        ("timeout_sec", "1e3", 1000.0),
        ("settle_sec", "1e-5", 0.00001),
        ("fuel", "1_000_000", 1_000_000),
        ("add_x", "-9223372036854775808", -(2**63)),
        ("on_finished", '["/bin/notify", "--to", "a b"]', ("/bin/notify", "--to", "a b")),
        ("grants", "{lib = '/a,b=c'}", {"lib": Path("/a,b=c")}),
        ("fleet", '["nats://a:4222", "tls://[::1]"]', ("nats://a:4222", "tls://[::1]")),
        ("fleet", "[]", ()),
        ("page", "true", "on"),
        ("page", "false", "off"),
    ],
)
def test_value_of_toml_is_read(file: Path, name: str, native: str, value: object) -> None:
    """Numbers, booleans, arrays and tables, where a setting has use for them."""
    write(file, f"{name} = {native}\n")
    assert value_of(read(file), name) == value


def test_job_user_as_a_number_is_read(file: Path) -> None:
    """A UID."""
    write(file, "job_user = 1234")
    assert read(file).settings.job_user.uid == 1234


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("workers = 1.0", "1.0"),
        ("workers = true", "true"),
        ("workers = 0", "0"),
        ("workers = [1]", "an array with 1 element"),
        ("timeout_sec = inf", "Infinity"),
        ("timeout_sec = 1979-05-27", "1979-05-27"),
        ("timeout_sec = {a = 1}", "a table"),
        ("entry = 12", "12"),
        ("watch = true", "true"),
        ("http = false", "false"),
        ("wasm_dir = ''", '""'),
        ('wasm_dir = "a\\u0000b"', '"a\\u0000b" (it has a NUL character)'),
        ("wasm_dir = '~/wasm'", '"~/wasm" (~ has no meaning here; write the path'),
        ("on_finished = ['notify']", "an array with 1 element"),
        ("on_finished = ['none']", "an array with 1 element"),
        ("on_finished = []", "an array with 0 elements"),
        ("on_finished = ['/bin/x', 1]", "an array with 2 elements (each word is a string"),
        ("grants = {'a b' = '/x'}", 'a table (in "a b")'),
        ("grants = {a = 1}", "a table (a needs the path of a directory)"),
        ("grants = {a = ''}", "a table (a needs the path of a directory)"),
        ("fleet = ['nats://a', 'b']", 'an array with 2 elements (in "b")'),
        ("fleet = [1]", "an array with 1 element"),
        ("args_json = [nan]", "an array with 1 element (line 1"),
        ("args_json = [1979-05-27]", "an array with 1 element (dates and times are no JSON)"),
    ],
)
def test_value_of_a_wrong_type_is_refused(file: Path, line: str, found: str) -> None:
    """The message names what was expected and what was found."""
    write(file, f"# comment\n\n{line}\n")
    name = line.partition(" ")[0]
    form = next(setting.format for setting in SETTINGS if setting.name == name)
    assert refusal(file).startswith(
        f"{file}, line 3: {name}: expected {form.expected}, got {found}"
    )


def test_relative_path_is_relative_to_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not to the directory of the process, also if the file itself is named by a relative path."""
    write(
        file,
        "wasm_dir = 'wasm'\nshared_dir = '../shared'\nsigning_key = './k.pem'\n"
        "output_path = 'out/a.json'\ngrants = {lib = 'lib', sys = '/lib'}\n",
    )
    monkeypatch.chdir(tmp_path)
    for given in (file, Path("own/config.toml")):
        settings = read(given).settings
        assert settings.wasm_dir == file.parent / "wasm"
        assert settings.shared_dir == tmp_path / "shared"
        assert settings.signing_key == file.parent / "k.pem"
        assert settings.output_path == file.parent / "out/a.json"
        assert settings.grants == {"lib": file.parent / "lib", "sys": Path("/lib")}
    write(file, "grants = 'lib=lib,sys=/lib'\n")
    assert read(file).settings.grants == {"lib": file.parent / "lib", "sys": Path("/lib")}


def test_grants_may_be_a_table_of_its_own(file: Path) -> None:
    """At the end of the file."""
    write(file, "workers = 2\n[grants]\ndata = '/srv/data'\n")
    assert read(file).settings.grants == {"data": Path("/srv/data")}
    write(file, "workers = 2\n[grants]\n'a b' = '/srv/data'\n")
    assert refusal(file).startswith(f"{file}, line 2: grants: expected ")


# --- Order


def test_empty_variable_leaves_the_value_of_the_file(file: Path) -> None:
    """It counts as not set."""
    write(file, "workers = 2\n")
    loaded = read(file, {"WASMDROP_WORKERS": ""})
    assert (loaded.settings.workers, loaded.origins["workers"]) == (2, f"file {file}")


def test_numbered_arguments_win_over_those_of_the_file(file: Path) -> None:
    """They are of the environment."""
    write(file, "args_json = [1, 2]\n")
    assert read(file).settings.env_args == (1, 2)
    loaded = read(file, {"ARG_0": "x"})
    assert loaded.settings.env_args == ("x",)
    assert loaded.origins["args_json"] == "environment ARG_0"
    assert read(file, {"ARG_0": "x", "ARGS_JSON": "[3]"}).settings.env_args == (3,)
    assert read(file, {"ARG_0": "x"}, args_json="[4]").settings.env_args == (4,)


@pytest.mark.parametrize(
    ("text", "environ", "paths"),
    [
        ("wasm_dir = '/f'", {}, ("/f", "/f/module.wasm")),
        ("wasm_path = '/f/a.wasm'", {}, ("/f", "/f/a.wasm")),
        ("wasm_dir = '/f'", {"WASM_PATH": "/e/a.wasm"}, ("/f", "/e/a.wasm")),
        ("wasm_path = '/f/a.wasm'", {"WASMDROP_WASM_DIR": "/e"}, ("/e", "/f/a.wasm")),
        ("wasm_dir = '/f'", {"WASMDROP_WASM_DIR": "/e"}, ("/e", "/e/module.wasm")),
        ("wasm_path = '/f/a.wasm'", {"WASM_PATH": "/e/b.wasm"}, ("/e", "/e/b.wasm")),
    ],
)
def test_paths_follow_only_from_settings_that_are_set_nowhere_else(
    file: Path, text: str, environ: dict[str, str], paths: tuple[str, str]
) -> None:
    """Each setting is of the highest place that sets it; then those that none sets are derived."""
    write(file, text)
    settings = read(file, environ).settings
    assert (str(settings.wasm_dir), str(settings.wasm_path)) == paths


# --- Where it is


def test_first_file_that_exists_is_read(tmp_path: Path, file: Path) -> None:
    """Flag, variable, XDG or home, host; and only that one."""
    home = write(tmp_path / "home/.config/wasmdrop/config.toml", "workers = 1\nattempts = 9")
    xdg = write(tmp_path / "xdg/wasmdrop/config.toml", "workers = 2")
    host = write(tmp_path / "etc/config.toml", "workers = 3")
    named = write(tmp_path / "named.toml", "workers = 4")
    write(file, "workers = 5")
    at_home = {**STATE, "HOME": str(tmp_path / "home")}
    with_xdg = {**at_home, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    with_name = {**with_xdg, "WASMDROP_CONFIG": str(named)}
    for environ, flags, path, workers in (
        (with_name, {"config": str(file)}, file, 5),
        (with_name, {}, named, 4),
        (with_xdg, {}, xdg, 2),
        (at_home, {}, home, 1),
        ({**at_home, "XDG_CONFIG_HOME": "relative"}, {}, home, 1),
        ({**at_home, "WASMDROP_CONFIG": ""}, {}, home, 1),
        ({**at_home, "XDG_CONFIG_HOME": str(tmp_path / "empty")}, {}, host, 3),
        ({**STATE, "HOME": "/nonexistent"}, {}, host, 3),
        (STATE, {}, host, 3),
    ):
        loaded = load(environ, flags)
        assert (loaded.config_file, loaded.settings.workers) == (path, workers)
        assert loaded.settings.attempts == (9 if path == home else 3)
    for environ, flags in (
        (with_name, {"config": "none"}),
        ({**with_xdg, "WASMDROP_CONFIG": "none"}, {}),
    ):
        assert load(environ, flags).config_file is None


def test_worker_reads_a_file_of_another_name(tmp_path: Path) -> None:
    """That of a daemon on the same host has the daemon's folders."""
    write(tmp_path / "etc/config.toml", "workers = 3")
    assert load(STATE, {}, config_name="worker.toml").config_file is None
    worker = write(tmp_path / "etc/worker.toml", "workers = 4")
    assert load(STATE, {}, config_name="worker.toml").config_file == worker


def test_no_file_is_no_error(tmp_path: Path) -> None:
    """The defaults are complete."""
    assert load({**STATE, "HOME": str(tmp_path)}, {}).config_file is None


def test_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    """By the name of the flag or variable."""
    missing = tmp_path / "a.toml"
    assert refusal(missing) == f"--config: {missing}: there is no such file"
    with pytest.raises(SettingsError) as caught:
        load({**STATE, "WASMDROP_CONFIG": str(missing)}, {})
    assert str(caught.value) == f"WASMDROP_CONFIG: {missing}: there is no such file"
    with pytest.raises(SettingsError, match="--config: expected none or the path of a file"):
        load(STATE, {"config": ""})


def test_link_to_nothing_is_refused(tmp_path: Path) -> None:
    """The operator means to have a file."""
    host = tmp_path / "etc/config.toml"
    host.parent.mkdir()
    host.symlink_to("gone")
    with pytest.raises(SettingsError, match="there is no such file"):
        load(STATE, {})


def test_file_that_this_user_can_not_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named or found: without it the daemon would run with other settings."""
    require_root()
    with shared_base() as base:
        monkeypatch.setattr(config_file, "SYSTEM_DIRECTORY", base / "etc")
        host = write(base / "etc/config.toml", "workers = 2")
        host.chmod(0o600)
        write(base / "home/.config/wasmdrop/config.toml", "workers = 2")
        (base / "home").chmod(0o700)
        named = as_alice(lambda: load(STATE, {"config": str(host)}, runs_jobs=False))
        assert named == f"{host}: can't be read by user {ALICE}: Permission denied"
        found = as_alice(lambda: load(STATE, {}, runs_jobs=False))
        assert found == f"{named}; --config none reads no file"
        host.parent.chmod(0o700)
        assert as_alice(lambda: load(STATE, {}, runs_jobs=False)) == found
        host.parent.chmod(0o755)
        host.unlink()
        at_home = {**STATE, "HOME": str(base / "home")}  # as that of root for a service
        assert as_alice(lambda: load(at_home, {}, runs_jobs=False)) == "None"


def as_alice(loads: Callable[[], Loaded]) -> str:
    """Load as another user; return the file that was read, or the refusal."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(ALICE)
            os.setuid(ALICE)
            try:
                answer = str(loads().config_file)
            except SettingsError as error:
                answer = str(error)
            os.write(writer, answer.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


# --- What is not a configuration file


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (Path.mkdir, "a directory"),
        (os.mkfifo, "a FIFO"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "a socket"),
    ],
    ids=["directory", "fifo", "device", "socket"],
)
def test_what_is_no_regular_file_is_refused(
    file: Path, make: Callable[[Path], None], found: str
) -> None:
    """Without opening it, which could block."""
    make(file)
    for runs_jobs in (True, False):
        with pytest.raises(SettingsError) as caught:
            load(STATE, {"config": str(file)}, runs_jobs=runs_jobs)
        assert str(caught.value) == f"{file}: expected a file, found {found}"


def test_huge_file_is_refused(file: Path) -> None:
    """Without reading more than the limit."""
    write(file, "")
    os.truncate(file, 10 << 30)
    assert refusal(file) == f"{file}: expected a file of at most 1 MiB"


def test_file_that_is_not_utf8_is_refused(file: Path) -> None:
    """With the line."""
    file.write_bytes(b"workers = 2\n# caf\xe9\n")
    assert refusal(file) == f"{file}, line 2: expected UTF-8"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers 2", "(at line 1, column 9)"),
        ("workers = 2\nworkers = 3\n", "(at line 2, column 12)"),
        ("a = " + "[" * 10_000, ""),
        ("workers = " + "1" * 10_000, ""),
        ('a = "\x1b[31m"', "(at line 1, column 6)"),
    ],
    ids=["syntax", "repeated", "deep", "long", "control"],
)
def test_file_that_is_no_toml_is_refused(file: Path, text: str, words: str) -> None:
    """With line and column, if there are any."""
    message = refusal(write(file, text))
    assert message.startswith(f"{file}: expected a TOML document: ")
    assert words in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("timeout_secs = 1", "timeout_secs: no setting of this name; did you mean timeout_sec?"),
        ("timeout-sec = 1", "timeout-sec: no setting of this name; did you mean timeout_sec?"),
        (
            "WASMDROP_WORKERS = 1",
            "WASMDROP_WORKERS: no setting of this name; did you mean workers?",
        ),
        ("arg_0 = 1", "arg_0: no setting of this name; did you mean args_json?"),
        ("zzzz = 1", "zzzz: no setting of this name"),
        ("[limits]", "limits: no setting of this name"),
        ("a.b = 1", "a: no setting of this name"),
        (
            "isolation = 'process'",
            (
                "isolation: this setting was removed: each job has a process of its own; remove the"
                " line"
            ),
        ),
        ('"a\\u001b" = 1', "a\\x1b: no setting of this name"),
    ],
)
def test_unknown_key_is_refused_with_a_suggestion(file: Path, line: str, message: str) -> None:
    """And with its line, if the key is written as it is."""
    write(file, f"workers = 2\n{line}\n")
    place = f"{file}: " if "\\u" in line else f"{file}, line 2: "
    assert refusal(file) == place + message


def test_line_in_a_message_is_not_one_inside_of_a_string(file: Path) -> None:
    """A string of several lines may have what looks like the key."""
    write(file, "entry = '''\nworkers = 1\n'''\nworkers = 0\n")
    assert refusal(file).startswith(f"{file}, line 4: workers: ")


# --- Who can change it


def test_file_of_others_is_refused_by_commands_that_run_jobs(file: Path) -> None:
    """It decides which commands run, and as whom. Other commands read it."""
    write(file, "workers = 2")
    for mode in (0o646, 0o666, 0o602):
        file.chmod(mode)
        assert f"any user can change it (its mode is {mode:04o})" in refusal(file)
        assert load(STATE, {"config": str(file)}, runs_jobs=False).settings.workers == 2
    file.chmod(0o644)
    file.parent.chmod(0o777)
    message = refusal(file)
    assert f"other users can write to the directory {file.parent} (its mode is 0777)" in message
    assert "chmod go-w" in message
    file.parent.chmod(0o1777)
    assert read(file).settings.workers == 2


def test_file_of_another_user_is_refused(file: Path) -> None:
    """Root must not run what another user wrote."""
    require_root()
    write(file, "workers = 2")
    os.chown(file, ALICE, ALICE)
    assert f"{file} belongs to user {ALICE}" in refusal(file)
    os.chown(file, 0, 0)
    os.chown(file.parent, ALICE, ALICE)
    assert f"{file.parent} belongs to user {ALICE}" in refusal(file)


def test_group_of_this_user_alone_may_write(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a umask of 002, as on many systems, everything of a user is writable for its group."""
    write(file, "workers = 2").chmod(0o664)
    file.parent.chmod(0o775)
    gid = file.stat().st_gid
    monkeypatch.setattr(os, "getgroups", lambda: [gid])
    monkeypatch.setattr(os, "getegid", lambda: gid)
    monkeypatch.setattr("pwd.getpwall", list)
    monkeypatch.setattr("grp.getgrgid", _no_group)
    assert read(file).settings.workers == 2
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(os, "getegid", lambda: gid + 1)
    assert f"other users can write to the directory {file.parent}" in refusal(file)
    file.parent.chmod(0o755)
    assert f"group {gid} can change it (its mode is 0664)" in refusal(file)


def _no_group(_gid: int) -> None:
    raise KeyError


def test_directory_of_a_config_map_may_be_writable(file: Path) -> None:
    """In a pod it is mounted read-only, and no one in the pod can reach it otherwise."""
    require_root()
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert load_in_volume(file, "remount,bind,ro", pod) == ""
    for options, environ in (("remount,bind,ro", {}), ("remount,bind,rw", pod)):
        said = load_in_volume(file, options, environ)
        assert f"other users can write to the directory {file.parent} (its mode is 0777)" in said


def load_in_volume(file: Path, options: str, environ: dict[str, str]) -> str:
    """Load a file at the root of a volume that all may write to; return the refusal."""
    script = (
        'mount -t tmpfs -o mode=777 tmpfs "$1" && mkdir -m 755 "$1/..1" && ln -s ..1 "$1/..data"'
        ' && echo workers=2 >"$1/..1/config.toml" && ln -s ..data/config.toml "$1/config.toml"'
        ' && mount -o "$2" "$1" && exec "$3" -m wasmdrop config --config "$1/config.toml"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(file.parent), options]
    done = subprocess.run(
        [*command, sys.executable],
        umask=0o022,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (2 if done.stderr else 0)
    return done.stderr


def test_file_with_a_byte_order_mark_is_refused(file: Path) -> None:
    """Editors on Windows write one, which TOML does not allow."""
    file.write_bytes(b"\xef\xbb\xbfworkers = 2\n")
    assert refusal(file) == f"{file}, line 1: expected UTF-8 without a byte order mark"
