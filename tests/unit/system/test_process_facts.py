"""Facts of processes from ``/proc``."""

import os
import pwd
import subprocess
import sys

from wasmdrop.system.process_facts import process_facts, user_name


def test_facts_of_a_process_are_its_user_and_its_age() -> None:
    """Its name may have spaces and parentheses."""
    rename = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b') R 1 (2')"
    program = f"{rename}; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        facts, own = process_facts(process.pid), process_facts(os.getpid())
        process.kill()
    assert facts is not None
    assert own is not None
    assert facts.user == own.user == pwd.getpwuid(os.geteuid()).pw_name
    assert 0 <= facts.age_seconds <= own.age_seconds
    assert process_facts(process.pid) is None


def test_user_without_a_name_has_its_number() -> None:
    """As most users of jobs."""
    assert user_name(2**31 - 7) == str(2**31 - 7)
