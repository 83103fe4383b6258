"""Start every test with signals at their default actions, and properties without a deadline.

The fixture ``guest`` repeats a test for each guest.
"""

import signal

import pytest
from hypothesis import settings

from tests.support.guests import GUESTS, require_guest

# A shell starts background jobs with SIGINT and SIGQUIT ignored, and nohup(1) ignores SIGHUP. The
# programs that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(_number, signal.SIG_DFL)

# A busy machine may take any time for an example.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="module", params=GUESTS)
def guest(request: pytest.FixtureRequest) -> str:
    """Return the guest that is to run the jobs; see :mod:`tests.support.guests`."""
    guest = str(request.param)
    require_guest(guest)
    return guest
