"""The table of commands."""

from typing import Final

#: Commands by purpose, with what each does. The module of a command has its name and is imported
#: only when it is called: the daemon needs none of the others.
GROUPS: Final = {
    "Daemon": {
        "serve": "run the daemon: watch the directories and run dropped jobs",
        "work": "run the jobs of a fleet on this host",
        "run": "run one job and exit",
        "status": "show in one screen whether all is well, and what to look at",
    },
    "Jobs": {
        "submit": "drop jobs safely; with --wait, print their results",
        "jobs": "list the jobs in the journal",
        "show": "show one job in the journal",
        "cancel": "end jobs that wait or run",
        "retry": "run the input of a finished job again",
    },
    "Modules": {
        "inspect": "show exports and imports of a module, and what a job calls",
        "fetch": "download a module and verify it by its CID or SHA-256",
        "cid": "print the content ids (CIDs) of files and directories",
        "schema": "print the JSON Schema of inputs, markers or receipts",
    },
    "Proof": {
        "verify": "run the job of a result again, and compare the outcome",
        "key": "make a key that signs receipts, or show the public part of one",
        "receipt": "put the signatures of several receipts into one",
    },
    "Fleet": {
        "fleet": "make the streams and keys of a fleet, or show its state",
    },
    "Setup": {
        "init": "make folders, a configuration file and an example module",
        "config": "show every setting, its value and its origin",
        "doctor": "check whether this host and its mounts are suitable",
        "completion": "print the code by which a shell completes commands and flags",
        "help": "show the help of a command",
    },
}

COMMANDS: Final = {
    name: summary for commands in GROUPS.values() for name, summary in commands.items()
}
