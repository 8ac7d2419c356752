"""What holds for every test."""

import signal

# A shell that starts a job in the background has it ignore SIGINT, and every process below inherits that: the tests of
# Ctrl-C would wait for ever. Handlers are reset by exec, so the processes that tests start get the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)
