"""What all tests share: signals have their default actions, whoever started the tests."""

import signal

# A shell starts background commands with SIGINT and SIGQUIT ignored, nohup(1) with SIGHUP. Programs
# that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(_number, signal.SIG_DFL)
