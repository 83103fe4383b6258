"""``wasmdrop completion``: print the code that lets a shell complete commands and flags."""

import argparse
import sys
from typing import Final

_DESCRIPTION: Final = """\
Prints the code that lets a shell complete commands, flags, their values, ids of jobs and file
names.
"""

_EPILOG: Final = """\
For all users, as root:
  cd /usr/local/share
  wasmdrop completion bash >bash-completion/completions/wasmdrop
  wasmdrop completion zsh >zsh/site-functions/_wasmdrop
  wasmdrop completion fish >/etc/fish/completions/wasmdrop.fish

For yourself, in ~/.bashrc, in ~/.zshrc after `compinit`, or in ~/.config/fish/config.fish:
  eval "$(wasmdrop completion bash)"
  eval "$(wasmdrop completion zsh)"
  wasmdrop completion fish | source
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish"
    )


def run(options: argparse.Namespace) -> int:
    """Print the code."""
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - the daemon needs none

    # Without the defaults for bash, which offer files if there is nothing to complete.
    code = shellcode(["wasmdrop"], shell=options.shell, complete_arguments=["-o", "nospace"])
    sys.stdout.write(code)
    return 0
