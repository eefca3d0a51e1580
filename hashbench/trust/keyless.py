"""Keyless signatures: an identity that Sigstore's authority vouched for, and its transparency log recorded.

Nothing is fetched unless it is asked for: Sigstore's roots are those that the sigstore package brings, or fetched
before, or in a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hashbench.hashing.opening import read_regular
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.strict_json import one_line, quoted
from hashbench.trust.bundles import Bundle
from hashbench.trust.dsse import IN_TOTO
from hashbench.trust.trust_error import TrustError

MAX_SIZE = 4 << 20
"""The largest file of roots that is read, in bytes."""


@dataclass(frozen=True)
class KeylessVerifier:
    """Trusts an identity.

    Args:
        identity: as the provider names it, such as an e-mail address or the URL of a workflow.
        provider: the URL of the OpenID Connect provider that vouched for it.
        trust_root: a file with Sigstore's roots (a trusted root, in JSON); None takes those of the sigstore package.
        fetch: asks Sigstore for the newest roots, over the network.
    """

    identity: str
    provider: str
    trust_root: Path | None = None
    fetch: bool = False

    def payload(self, bundle: Bundle) -> tuple[bytes, str]:
        """The in-toto statement that a bundle signs, and who signed it; errors are those of `Verifier`."""
        try:
            from sigstore.errors import Error as SigstoreError
            from sigstore.models import Bundle as SigstoreBundle
            from sigstore.models import ClientTrustConfig, TrustedRoot
            from sigstore.verify import Verifier
            from sigstore.verify.policy import Identity
        except ModuleNotFoundError as error:
            raise TrustError(f"{error.name} is not installed: install hashbench[keyless]") from None
        try:
            if self.trust_root is None:
                roots = ClientTrustConfig.production(offline=not self.fetch).trusted_root
            else:
                roots = TrustedRoot.from_file(str(self._checked(self.trust_root)))
            parsed = SigstoreBundle.from_json(bundle.document)
        except (SigstoreError, ValueError, KeyError, TypeError) as error:
            raise TrustError(f"Sigstore does not accept the signature or its roots: {_said(error)}") from None
        policy = Identity(identity=self.identity, issuer=self.provider)
        try:
            kind, payload = Verifier(trusted_root=roots).verify_dsse(parsed, policy)
        except SigstoreError as error:
            raise VerificationError(f"the signature is not valid: {_said(error)}") from None
        if kind != IN_TOTO:
            raise VerificationError(f"what is signed is of the type {quoted(kind)}, not {IN_TOTO}")
        return payload, f"{self.identity} (by {self.provider})"

    def _checked(self, path: Path) -> Path:
        if len(read_regular(path, MAX_SIZE + 1)) > MAX_SIZE:
            raise TrustError(f"{path} has more than {MAX_SIZE} bytes")
        return path


def _said(error: Exception) -> str:
    """The message of an error, which may have parts of the signature, on one line."""
    return one_line(" ".join(str(error).split()))
