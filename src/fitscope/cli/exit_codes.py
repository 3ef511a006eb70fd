"""What the exit status of a command means."""

OK = 0
PROBLEM = 1
USAGE = 2
# `fitscope doctor` found something as grave as `--fail-on`.
FOUND = 3
# The shell's own number for a command ended by Ctrl-C.
INTERRUPTED = 130
