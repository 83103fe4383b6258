"""A model of the protocol against a real daemon: random sequences of actions and accidents.

The producer's record is the model. At each rest the checker compares everything with it.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support.durability.checker import Kind, check, check_slot_now
from tests.support.durability.lives import Lives

_IS_LONG: Final = os.environ.get("WASMDROP_TORTURE") == "long"
_CAN_MOUNT: Final = os.geteuid() == 0

_NAMES: Final = ("input.json", "input-a.json", "input-b.json", "deep/er/input.json")
_SMALL: Final = ("small/input.json", "small/input-more.json")
_VOLUME: Final = ("volume/input.json", "volume/input-other.json")

_names = st.sampled_from(_NAMES)
_codes = st.sampled_from(("ok", "ok", "trap", "invalid-input"))
_turns = st.sampled_from((1, 1, 20_000_000))


class Story(RuleBasedStateMachine):
    """Actions of producers and operators, and accidents, in any order."""

    @initialize()
    def begin(self) -> None:
        """Start the first daemon. Its shared directory has a tiny filesystem in it."""
        self.base = Path(tempfile.mkdtemp(prefix="wasmdrop-story-"))
        self.lives = Lives(self.base, WASMDROP_SETTLE_SEC="0.1", WASMDROP_DRAIN_SEC="0.2")
        self.producer = self.lives.producer
        self.small = self.lives.shared / "small"
        self.small.mkdir()
        if _CAN_MOUNT:
            mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(self.small)]
            subprocess.run(mount, check=True)
        self.is_full = False
        self.producer.module(self.lives.wasm / "m.wasm")
        self.producer.module(self.lives.wasm / "module.wasm", "input.json")
        first = {name: self.producer.version() for name in _VOLUME}
        self.producer.swap("volume", first)
        self.lives.start()

    def is_alive(self) -> bool:
        """Whether a daemon is running."""
        return not self.lives.has_died()

    @rule(name=_names, code=_codes, turns=_turns, names_module=st.booleans())
    def drop(self, name: str, code: str, turns: int, names_module: bool) -> None:
        """Drop a new version."""
        module = "m" if names_module else None
        self.producer.drop(name, self.producer.version(module=module, code=code, turns=turns))

    @rule(name=_names)
    def drop_again(self, name: str) -> None:
        """Drop the same bytes."""
        if self.is_present(name):
            self.producer.drop_again(name)

    @rule(name=_names)
    def remove(self, name: str) -> None:
        """Remove an input."""
        if self.is_present(name):
            self.producer.remove(name)

    @rule(name=_names, other=_names)
    def rename(self, name: str, other: str) -> None:
        """Rename an input, perhaps over another one."""
        if self.is_present(name) and name != other:
            self.producer.rename(name, other)

    @rule(name=_names, code=_codes)
    def rewrite(self, name: str, code: str) -> None:
        """Overwrite an input in place."""
        if self.is_present(name):
            self.producer.rewrite(name, self.producer.version(code=code))

    @rule()
    def replace_module(self) -> None:
        """Replace the module that inputs name."""
        self.producer.module(self.lives.wasm / "m.wasm")

    @rule()
    def replace_default_module(self) -> None:
        """Replace the default module, which reruns the root slot."""
        self.producer.module(self.lives.wasm / "module.wasm", "input.json")

    @rule(changed=st.sets(st.sampled_from(_VOLUME)))
    def swap(self, changed: set[str]) -> None:
        """Replace the content of a volume."""
        versions = {name: self.producer.version() for name in sorted(changed)}
        self.producer.swap("volume", versions)

    @precondition(lambda self: _CAN_MOUNT and not self.is_full)
    @rule()
    def fill(self) -> None:
        """Fill the small filesystem."""
        path = self.small / "filler"
        with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        self.is_full = True

    @precondition(lambda self: self.is_full)
    @rule()
    def free(self) -> None:
        """Free the space again."""
        (self.small / "filler").unlink()
        self.is_full = False

    @rule(name=st.sampled_from(_SMALL))
    def drop_on_the_small_disk(self, name: str) -> None:
        """Drop on the small filesystem; overwrite the old version if a new one has no space."""
        version = self.producer.version()
        try:
            self.producer.drop(name, version)
        except OSError:
            if self.is_present(name):
                self.producer.rewrite(name, version)

    @precondition(is_alive)
    @rule()
    def kill(self) -> None:
        """Kill the daemon with SIGKILL."""
        self.lives.kill()
        self.look()

    @precondition(is_alive)
    @rule()
    def stop(self) -> None:
        """Stop the daemon with SIGTERM."""
        assert self.lives.stop() == 0, self.lives.log_text()
        self.lives.witness()
        self.look()

    @precondition(lambda self: not self.is_alive())
    @rule()
    def start(self) -> None:
        """Start the daemon again."""
        self.lives.start()

    @rule()
    def rest(self) -> None:
        """Wait for rest; then there must be no fault."""
        if self.is_full:
            self.free()
        if not self.is_alive():
            self.start()
        self.lives.settle()
        self.judge(frozenset({Kind.LEFTOVER}))  # a module may be being copied

    def judge(self, passing: frozenset[Kind] = frozenset()) -> None:
        """Compare everything with the model, except for faults of the kinds ``passing``."""
        self.lives.witness()
        findings = [one for one in check(self.lives.evidence()) if one.kind not in passing]
        assert not findings, f"{findings}; the log ends in {self.lives.log_text()[-4000:]}"

    def look(self) -> None:
        """Check that every marker is true, as it must be at any moment."""
        for name in self.producer.slots:
            assert check_slot_now(self.lives.shared, name) is None

    def is_present(self, name: str) -> bool:
        """Whether the input exists."""
        return name in self.producer.slots and self.producer.slots[name].is_present

    def teardown(self) -> None:
        """Check a last time, and clean up."""
        if not hasattr(self, "lives"):
            return
        try:
            self.rest()
            self.stop()
            self.judge()
        finally:
            if self.is_alive():
                self.lives.kill()
            if _CAN_MOUNT:
                subprocess.run(["umount", "--lazy", str(self.small)], check=True)
            shutil.rmtree(self.base)


_profile: dict[str, Any] = {
    "deadline": None,  # real processes, on machines that may be busy
    "suppress_health_check": list(HealthCheck),
    "database": None,
}
if _IS_LONG:
    _profile |= {"max_examples": 150, "stateful_step_count": 60}
else:
    # The same sequences each time. Use the long form to investigate a failure.
    _profile |= {"max_examples": 12, "stateful_step_count": 30, "derandomize": True}
    _profile |= {"phases": (Phase.explicit, Phase.generate)}

TestStory = Story.TestCase
TestStory.settings = settings(**_profile)
