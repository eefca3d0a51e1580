"""The error of everything that compares digests."""


class VerificationError(Exception):
    """A digest or root is not what it must be; the message says which."""
