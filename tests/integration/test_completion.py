"""Completion: in bash, zsh and fish as a person types, and what the command answers a shell."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import Daemon
from tests.support.fib import with_fib
from tests.support.require import require_tools

_BIN: Final = str(Path(sys.executable).parent)

#: Shells, and the lines that turn completion on. Ctrl-G then shows the line, and Ctrl-U clears it.
_SHELLS: Final = {
    "bash": (
        ("bash", "--norc", "--noprofile", "-i"),
        """eval "$(wasmdrop completion bash)"; bind -x '"\\C-g": echo "[[$READLINE_LINE]""]"'""",
    ),
    "zsh": (
        ("zsh", "-f", "-i"),
        """autoload -U compinit; compinit -D -u; eval "$(wasmdrop completion zsh)"
        show() { print -r -- "[[$BUFFER]""]" }; zle -N show; bindkey "^G" show""",
    ),
}

#: What is typed before the tabulator, and what the line is after it.
_LINES: Final = [
    ("wasmdrop subm", "wasmdrop submit "),
    ("wasmdrop key new --ty", "wasmdrop key new --type "),
    ("wasmdrop jobs --state q", "wasmdrop jobs --state queued "),
    ("wasmdrop serve --sandbox best", "wasmdrop serve --sandbox best-effort "),
    ("wasmdrop cid a-fi", "wasmdrop cid a-file "),
    ("wasmdrop cid a-di", "wasmdrop cid a-directory/"),
    ("wasmdrop jobs --state-dir a-", "wasmdrop jobs --state-dir a-directory/"),
    ("wasmdrop nothing-of-this ", "wasmdrop nothing-of-this "),
]


def environment(**variables: str) -> dict[str, str]:
    """Return an environment with the command on PATH."""
    path = f"{_BIN}:{os.environ['PATH']}"
    return {"PATH": path, "TERM": "dumb", "LC_ALL": "C.UTF-8", **variables}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a directory with a file and a directory."""
    (tmp_path / "a-file").touch()
    (tmp_path / "a-directory").mkdir()
    return tmp_path


class Terminal:
    """A shell on a terminal."""

    def __init__(self, command: tuple[str, ...], directory: Path) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(directory)
            os.execvpe(command[0], command, environment(HOME=str(directory)))  # noqa: S606
        self._shown = b""

    def type(self, keys: str) -> None:
        """Type some keys."""
        os.write(self._terminal, keys.encode())

    def read_until(self, text: bytes) -> bytes:
        """Return what was shown since the last call, up to a text."""
        while text not in self._shown:
            self._shown += os.read(self._terminal, 4096)
        found, _, self._shown = self._shown.partition(text)
        return found

    def close(self) -> None:
        """End the shell."""
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


@pytest.mark.parametrize("shell", _SHELLS)
def test_tabulator_completes_commands_flags_values_and_files(folder: Path, shell: str) -> None:
    """In a shell that a person uses; nothing else appears."""
    require_tools(shell)
    command, setup = _SHELLS[shell]
    terminal = Terminal(command, folder)
    try:
        terminal.type(f"{setup}; echo rea''dy\n")
        terminal.read_until(b"ready")
        for typed, expected in _LINES:
            terminal.type(f"{typed}\t\x07")
            terminal.read_until(b"[[")
            assert terminal.read_until(b"]]").decode() == expected
            terminal.type("\x15")
    finally:
        terminal.close()


def test_fish_completes_commands_flags_values_and_files(folder: Path) -> None:
    """Its own command shows what the tabulator would."""
    require_tools("fish")
    lines = " ".join(f"'{typed}'" for typed, _expected in _LINES)
    look = f"for line in {lines}; complete -C $line; echo; end"
    done = subprocess.run(
        ["fish", "-N", "-c", f"wasmdrop completion fish | source; {look}"],
        cwd=folder,
        env=environment(HOME=str(folder)),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    wanted = [[] if expected == typed else [expected.split()[-1]] for typed, expected in _LINES]
    assert (found, done.stderr) == ([word for words in wanted for word in (*words, "")], "")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str]]:
    """Give a daemon that has run a job, and that job's id."""
    daemon = with_fib(tmp_path_factory.mktemp("served"))
    with daemon.running():
        yield daemon, daemon.submit("input.json", '{"entry":"fib","args":[7]}')["job"]


def answer(line: str, base: Path, **variables: str) -> tuple[list[str], str]:
    """Return what a shell would be told, and what is printed beside it."""
    answers = base / "answers"
    answers.touch()
    done = subprocess.run(
        [sys.executable, "-m", "wasmdrop"],
        env=environment(
            COMP_LINE=line,
            COMP_POINT=str(len(line)),
            _ARGCOMPLETE="1",
            _ARGCOMPLETE_IFS="\n",
            _ARGCOMPLETE_STDOUT_FILENAME=str(answers),
        )
        | variables,
        cwd=base,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return [word.strip() for word in answers.read_text().splitlines()], done.stdout + done.stderr


def test_values_are_those_of_the_daemon(served: tuple[Daemon, str], tmp_path: Path) -> None:
    """Ids of jobs come from the journal, names of modules from the wasm directory."""
    daemon, job = served
    variables = {
        "WASMDROP_STATE_DIR": str(daemon.state),
        "WASMDROP_WASM_DIR": str(daemon.wasm),
        "WASMDROP_SHARED_DIR": str(daemon.shared),
    }
    for line, expected in (
        ("wasmdrop show ", [job]),
        (f"wasmdrop show {job[:5]}", [job]),
        ("wasmdrop retry ", [job]),
        ("wasmdrop cancel ", []),  # it has ended
        ("wasmdrop submit --module ", ["module"]),
    ):
        assert answer(line, tmp_path, **variables) == (expected, "")
    line = f"wasmdrop show --state-dir {daemon.state} "
    assert answer(line, tmp_path) == ([job], "")


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("wasmdrop --bogus ", {}),
        ("wasmdrop nothing-of-this ", {}),
        ("wasmdrop help nothing-of-this ", {}),
        ("wasmdrop show ", {"WASMDROP_STATE_DIR": "/proc/1/none"}),
        ("wasmdrop show ", {"WASMDROP_WORKERS": "many"}),
        ("wasmdrop submit --module ", {"WASMDROP_WASM_DIR": "/none"}),
        ("wasmdrop cid /none/", {}),
        ("wasmdrop show ", {"COMP_POINT": "x"}),
        ("wasmdrop show 'a", {"_ARGCOMPLETE_STDOUT_FILENAME": "/none/x"}),
    ],
)
def test_answer_to_a_line_that_has_none_is_quiet(
    tmp_path: Path, line: str, variables: dict[str, str]
) -> None:
    """A message would appear in the middle of what a person types."""
    assert answer(line, tmp_path, **variables) == ([], "")
