"""in-toto statements: what is said (the predicate) about what (subjects, by their digests).

Written as RFC 8785 canonical JSON, read strictly, whatever the predicate; those that are known are checked against
their specification: OMS signatures, SCAI attribute reports, simple verification results (SVR) and SLSA provenance.
A subject of statements about a model is its manifest's file, by SHA-256: verifiers refuse digests of other names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hashbench.model import canonical_json
from hashbench.model.documents import DocumentError, parse_document
from hashbench.model.strict_json import quoted
from hashbench.trust.trust_error import TrustError

STATEMENT = "https://in-toto.io/Statement/v1"
OMS = "https://model_signing/signature/v1.0"
SCAI = "https://in-toto.io/attestation/scai/v0.3"
SVR = "https://in-toto.io/attestation/svr/v0.2"
SLSA = "https://slsa.dev/provenance/v1"

MAX_SIZE = 64 << 20
"""The largest statement that is read, in bytes: an OMS signature has one resource a file."""

_MAX_DEPTH = 32

Resource = Mapping[str, Any]
"""A resource descriptor of in-toto: a name or URI, and digests."""


@dataclass(frozen=True)
class Subject:
    """What a statement is about.

    Attributes:
        name: its name.
        digest: digests in hexadecimal digits, by algorithm.
    """

    name: str
    digest: Mapping[str, str]


@dataclass(frozen=True)
class Statement:
    """An in-toto statement.

    Attributes:
        subjects: at least one.
        predicate_type: a URI.
        predicate: what is said.
    """

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    def text(self) -> bytes:
        """Its RFC 8785 canonical JSON: what is signed.

        Raises:
            TypeError, ValueError: the predicate has a value that canonical JSON does not have here.
        """
        return canonical_json.dumps(
            {
                "_type": STATEMENT,
                "predicate": self.predicate,
                "predicateType": self.predicate_type,
                "subject": [{"digest": dict(subject.digest), "name": subject.name} for subject in self.subjects],
            }
        )


def parse_statement(payload: bytes, predicate_type: str) -> Statement:
    """Parses a statement.

    Args:
        payload: its JSON, whose signature is checked.
        predicate_type: the type of predicate that is expected.

    Raises:
        TrustError: it is not valid, or has another predicate.
    """
    try:
        document = parse_document(
            payload,
            "statement",
            version=None,
            max_size=MAX_SIZE,
            max_depth=_MAX_DEPTH,
            floats=True,
            package="hashbench.trust",
        )
    except DocumentError as error:
        raise TrustError(f"the statement is not valid: {error}") from None
    if document["predicateType"] != predicate_type:
        raise TrustError(f"the statement's predicate is {quoted(document['predicateType'])}, not {predicate_type}")
    subjects = tuple(Subject(subject.get("name", ""), subject["digest"]) for subject in document["subject"])
    return Statement(subjects, predicate_type, document["predicate"])


def scai(subject: Subject, attributes: Sequence[Mapping[str, Any]], producer: Resource | None = None) -> Statement:
    """A SCAI attribute report: attributes of an artifact, each with conditions and evidence.

    Args:
        subject: the artifact.
        attributes: each has `attribute`, and may have `target`, `conditions` and `evidence`.
        producer: who made the artifact, or the statement about it.
    """
    predicate = {"attributes": [dict(attribute) for attribute in attributes]}
    return Statement((subject,), SCAI, predicate | ({"producer": dict(producer)} if producer else {}))


def svr(
    subject: Subject, verifier: str, policies: Sequence[Resource], time: datetime, properties: Sequence[str]
) -> Statement:
    """A simple verification result: properties that a verifier found an artifact to have.

    Args:
        subject: the artifact.
        verifier: a URI.
        policies: those that were applied.
        time: when.
        properties: what passed.
    """
    predicate = {
        "verifier": {"id": verifier, "policies": [dict(policy) for policy in policies]},
        "timeCreated": timestamp(time),
        "properties": list(properties),
    }
    return Statement((subject,), SVR, predicate)


def slsa(
    subject: Subject,
    build_type: str,
    parameters: Mapping[str, Any],
    dependencies: Sequence[Resource],
    builder: str,
) -> Statement:
    """SLSA provenance: how an artifact was made.

    Args:
        subject: the artifact.
        build_type: a URI that says how to interpret the parameters.
        parameters: what was asked for.
        dependencies: what was needed.
        builder: a URI.
    """
    predicate = {
        "buildDefinition": {
            "buildType": build_type,
            "externalParameters": dict(parameters),
            "resolvedDependencies": [dict(dependency) for dependency in dependencies],
        },
        "runDetails": {"builder": {"id": builder}},
    }
    return Statement((subject,), SLSA, predicate)


def timestamp(time: datetime) -> str:
    """A time as in-toto writes it: in UTC, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """The time of such a text.

    Raises:
        TrustError: it is not one.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise TrustError(f"{quoted(text)} is not a time: write it as 2026-11-26T12:00:00Z") from None
