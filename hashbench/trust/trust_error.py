"""The error of everything that cannot be used here: keys, certificates, signatures, bundles, policies."""

from __future__ import annotations


class TrustError(ValueError):
    """A file is not what it should be, so that nothing can be verified with it; the message says why."""
