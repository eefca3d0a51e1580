"""What the process tells its caller."""

CHECK_FAILED = 1
"""A digest is not what it should be."""

UNUSABLE = 2
"""The call or the input cannot be used."""

INTERRUPTED = 130
"""Ctrl-C, as shells number it."""
