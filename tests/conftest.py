"""Start every test with signals at their default actions, and properties without a deadline."""

import signal

from hypothesis import settings

# A shell starts background jobs with SIGINT and SIGQUIT ignored, and nohup(1) ignores SIGHUP. The
# programs that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(_number, signal.SIG_DFL)

# A busy machine may take any time for an example.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
