"""What makes evidence, with the interfaces of the kernel and of NVIDIA's driver imitated."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from attestations import MANIFEST, NONCE, Gpu, SnpProcessor, appraised, attested, policy
from authorities import issue
from cryptography.hazmat.primitives.serialization import Encoding

from hashbench.trust import nvidia, snp, tsm
from hashbench.trust.attestation import attest, by_kernel
from hashbench.trust.evidence import COLLATERAL, QUOTE, SNP_CHAIN, SNP_REPORT
from hashbench.trust.simulated import SimulatedPlatform
from hashbench.trust.trust_error import TrustError

REPORT_DATA = bytes(range(64))


class Kernel:
    """What the kernel does in its folder of reports."""

    def __init__(self, folder: Path, provider: str, outblob: bytes, auxblob: bytes = b"") -> None:
        self.folder, self.provider, self.outblob, self.auxblob = folder, provider, outblob, auxblob
        self.bound: list[bytes] = []

    def mkdir(self, path: Path) -> None:
        path.mkdir()
        (path / "provider").write_text(f"{self.provider}\n")
        (path / "generation").write_text("1\n")
        (path / "outblob").write_bytes(self.outblob)
        (path / "auxblob").write_bytes(self.auxblob)

    def rmdir(self, path: Path) -> None:
        self.bound.append((path / "inblob").read_bytes())
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def kernel(monkeypatch: pytest.MonkeyPatch, folder: Path, provider: str, *blobs: bytes) -> Kernel:
    made = Kernel(folder, provider, *blobs)
    monkeypatch.setattr(tsm, "REPORTS", folder)
    monkeypatch.setattr(tsm, "os", SimpleNamespace(mkdir=made.mkdir, rmdir=made.rmdir))
    return made


def test_a_report_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = kernel(monkeypatch, tmp_path, "tdx_guest", b"quote")
    assert by_kernel(collateral=b"{}")(REPORT_DATA) == {QUOTE: b"quote", COLLATERAL: b"{}"}
    assert by_kernel("tdx")(REPORT_DATA) == {QUOTE: b"quote"}
    assert made.bound == [REPORT_DATA] * 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(TrustError, match="not sev_guest"):
        by_kernel("snp")(REPORT_DATA)
    with pytest.raises(ValueError, match="64"):
        tsm.report(b"")


def test_a_platform_that_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(monkeypatch, tmp_path, "other\x1b[31m", b"")
    with pytest.raises(TrustError, match=r"other\\x1b") as caught:
        tsm.report(REPORT_DATA)
    assert str(caught.value).isprintable()


def test_a_report_that_another_process_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(monkeypatch, tmp_path, "tdx_guest", b"quote")
    read = tsm._read
    generations = iter((b"1", b"2"))
    monkeypatch.setattr(tsm, "_read", lambda path: next(generations) if path.name == "generation" else read(path))
    with pytest.raises(TrustError, match="another process"):
        tsm.report(REPORT_DATA)
    assert not list(tmp_path.iterdir())


def table(*entries: tuple[str, bytes]) -> bytes:
    """The certificates of SEV-SNP as a host gives them."""
    offset = 24 * (len(entries) + 1)
    head, data = b"", b""
    for name, certificate in entries:
        head += struct.pack("<16sII", bytes.fromhex(name.replace("-", "")), offset + len(data), len(certificate))
        data += certificate
    return head + bytes(24) + data


VCEK, ASK, ARK = (
    "63da758d-e664-4564-adc5-f4b93be8accd",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae",
)


def test_certificates_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ark, ask, vcek = (issue(name) for name in ("ark", "ask", "vcek"))
    der = {one: one.certificate.public_bytes(Encoding.DER) for one in (ark, ask, vcek)}
    given = table((ARK, der[ark]), ("00" * 15 + "01", b"other"), (ASK, der[ask]), (VCEK, der[vcek]))
    made = kernel(monkeypatch, tmp_path, "sev_guest", b"report", given)
    expected = vcek.pem() + ask.pem() + ark.pem()
    assert by_kernel()(REPORT_DATA) == {SNP_REPORT: b"report", SNP_CHAIN: expected}
    assert by_kernel(certificates=b"mine")(REPORT_DATA) == {SNP_REPORT: b"report", SNP_CHAIN: b"mine"}
    made.auxblob = b""
    assert by_kernel("snp")(REPORT_DATA) == {SNP_REPORT: b"report"}
    for bad in (given[:-1], table((VCEK, b"x"))):
        with pytest.raises(TrustError):
            snp.chain_in(bad)


def test_a_processor_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = SnpProcessor()
    files = attested(processor.provider())
    kernel(monkeypatch, tmp_path, "sev_guest", files[SNP_REPORT])
    again = attested(by_kernel("snp", files[SNP_CHAIN]))
    assert appraised(again, policy(tdx=None, snp={}), simulated=False, amd_roots=processor.is_root).ok


def test_the_register_is_extended_with_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register = tmp_path / "rtmr3"
    register.write_bytes(b"")
    monkeypatch.setattr(tsm, "RTMR3", register)
    simulated = SimulatedPlatform.made()
    attest(
        MANIFEST, "m", None, NONCE, lambda data: {QUOTE: simulated.quote(data)[0]}, gpu=lambda _: None,
        extend_rtmr3=True,
    )  # fmt: skip
    assert len(register.read_bytes()) == 48
    monkeypatch.setattr(tsm, "RTMR3", tmp_path / "none" / "rtmr3")
    with pytest.raises(TrustError, match="cannot be extended"):
        tsm.extend_rtmr3(bytes(48))
    with pytest.raises(ValueError, match="48"):
        tsm.extend_rtmr3(bytes(32))


class Driver(SimpleNamespace):
    """NVIDIA's driver, as its Python bindings show it."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: list[Gpu], confidential: bool = True) -> None:
        super().__init__()
        self.gpus, self.confidential, self.open = gpus, confidential, 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, gpu: Gpu, nonce: bytes) -> SimpleNamespace:  # noqa: N802
        if not self.confidential:
            raise self.NVMLError
        report, self.chain = gpu.report(nonce)
        return SimpleNamespace(attestationReport=[*report, 0, 0], attestationReportSize=len(report))

    def nvmlDeviceGetConfComputeGpuCertificate(self, gpu: Gpu) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(attestationCertChain=[*self.chain, 0], attestationCertChainSize=len(self.chain))


def test_evidence_of_nvidias_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    driver = Driver([gpu])
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    files = attested(gpu=nvidia.collect)
    assert appraised(files, policy(gpu={"required": True}), nvidia_root=gpu.is_root).ok
    assert driver.open == 0
    driver.confidential = False
    assert nvidia.collect(bytes(32)) is None
    assert driver.open == 0
    monkeypatch.setitem(sys.modules, "pynvml", Driver([]))
    assert nvidia.collect(bytes(32)) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.collect(bytes(32)) is None


def test_a_simulated_platform_stays_the_same(tmp_path: Path) -> None:
    made = SimulatedPlatform.in_folder(tmp_path / "platform")
    assert SimulatedPlatform.in_folder(tmp_path / "platform").root_pem == made.root_pem
    assert (tmp_path / "platform" / "root.key").stat().st_mode & 0o077 == 0
