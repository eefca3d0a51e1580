"""The error of every comparison of digests."""


class VerificationError(Exception):
    """A digest or root is not the expected one; the message says which."""
