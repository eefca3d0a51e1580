"""Reports of the platform that this machine runs on, by Linux's configfs-tsm (since 6.7): Intel TDX and AMD SEV-SNP."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import NamedTuple

from hashbench.model.strict_json import one_line
from hashbench.trust.trust_error import TrustError

REPORTS = Path("/sys/kernel/config/tsm/report")
"""Where the kernel makes reports: one in each folder that is made here."""

RTMR3 = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
"""The register that software may extend (since Linux 6.16)."""

TDX, SNP = "tdx_guest", "sev_guest"
"""The names of platforms, as the kernel has them."""

REPORT_DATA_SIZE = 64
"""Bytes that a report can bind."""

_MAX_SIZE = 1 << 20  # of a report, and of the certificates beside it


class Report(NamedTuple):
    """What the platform signed.

    Attributes:
        provider: the platform's name.
        data: the quote or report.
        more: what goes with it: certificates of SEV-SNP.
    """

    provider: str
    data: bytes
    more: bytes


def unavailable() -> str | None:
    """Why no report can be made here; None if one can."""
    if not REPORTS.is_dir():
        return f"no platform here attests: {REPORTS} is missing, which confidential virtual machines have"
    return None


def report(report_data: bytes) -> Report:
    """A report that binds 64 bytes.

    Raises:
        TrustError: there is no such platform here, or another process used the same folder.
        OSError: the platform refused.
    """
    if reason := unavailable():
        raise TrustError(reason)
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"{len(report_data)} bytes are not accepted: a report binds {REPORT_DATA_SIZE}")
    folder = REPORTS / f"hashbench-{uuid.uuid4()}"
    os.mkdir(folder)  # noqa: PTH102  # the kernel makes what is in it
    try:
        (folder / "inblob").write_bytes(report_data)
        before = _read(folder / "generation")
        provider = _read(folder / "provider").decode("ascii", "replace").strip()
        data = _read(folder / "outblob")
        more = _read(folder / "auxblob") if provider == SNP else b""
        if _read(folder / "generation") != before:
            raise TrustError(f"{folder} was used by another process meanwhile: try again")
    finally:
        os.rmdir(folder)  # noqa: PTH106
    if provider not in (TDX, SNP):
        raise TrustError(f"the platform {one_line(provider)} is not known: accepted are {TDX} and {SNP}")
    return Report(provider, data, more)


def extend_rtmr3(digest: bytes) -> None:
    """Extends the register RTMR3 of a trust domain with a digest of 48 bytes. It cannot be undone.

    Raises:
        TrustError: it is not there, or not writable.
    """
    if len(digest) != 48:
        raise ValueError(f"{len(digest)} bytes are not accepted: the register is extended with 48")
    try:
        with RTMR3.open("wb", buffering=0) as register:
            register.write(digest)
    except OSError as error:
        raise TrustError(f"{RTMR3} cannot be extended: {error.strerror} (since Linux 6.16, in a TDX guest)") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_SIZE)
