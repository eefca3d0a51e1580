"""The exit codes of the command line, other than 0 for success."""

CHECK_FAILED = 1
"""A digest is not the expected one."""

UNUSABLE = 2
"""The call is not valid, or its input is not, or nothing failed but some of it cannot be read."""

INTERRUPTED = 130
"""The user pressed Ctrl-C, as shells report it."""
