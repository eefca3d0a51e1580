"""The chain experiment: what does each link of the chain of trust cost beside hashing?

A model in safetensors files is signed, loaded verified and attested where it lies in memory, and the attestation is
appraised, by the same functions as on the command line, in one process that has done all of it before. What a link
takes beside hashing (with the reading and copying of what is hashed) is measured apart. The platform is simulated;
public evidence of real hardware is verified besides, where it is.

A model that is larger than files in memory may be has files of holes, which have every name, shape and place but no
bytes: whatever a link does beside hashing is the same. It is attested from the GPU's memory, filled with random bytes.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes

from hashbench.bench.experiment import Skip, room
from hashbench.bench.frames import VALUES, Line, Results, lines
from hashbench.bench.inventories import MODELS
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE
from hashbench.bench.text_table import Columns, number
from hashbench.experiments import style
from hashbench.experiments.in_place import fill_random, module_of
from hashbench.experiments.loading import write_model
from hashbench.experiments.programs import ASK_SECONDS, Outcomes, PeerError, program_output
from hashbench.experiments.storage import StorageUnavailable, in_memory
from hashbench.hashing.sizes import format_size
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Buffer, Device, Kernel, Unavailable
from hashbench.report.findings import GPU, ClaimExperiment, Finding, worst

if TYPE_CHECKING:
    from hashbench.model.manifest import Manifest
    from hashbench.trust.attestation import Provider
    from hashbench.trust.signing import Signed

ALGORITHM = "sha256"

QUICK_MODELS = {"gpu": ("llama-3.2-1b",), "cpu": ("bert-base",)}
FULL_MODELS = {"gpu": ("llama-3.1-8b", "llama-3.1-70b"), "cpu": ("bert-base",)}
"""Models by kind of device."""

LARGEST_IN_FILES = 20 * 10**9
"""Bytes of the largest model whose files have its bytes."""

RUNS_WITH_FILES, RUNS = 3, 9
"""Timed runs of a link that hashes files, and of others, after a first that is not timed."""

SIGN, LOAD, ATTEST, APPRAISE = LINKS = ("sign", "load verified", "attest", "appraise")
"""The links, subjects of the readings."""

TDX, GPUS = EVIDENCE = ("a public TDX quote", "the reports of eight public GPUs")
"""Public evidence, likewise."""

TOTAL, BESIDE, FIRST, IMPORT = "total seconds", "seconds beside hashing", "first seconds", "import seconds"
"""The quantities: of a link; of it without hashing; of evidence whose certificates are seen for the first time; and of
what a process imports once."""

AT_MOST = 0.1
"""Seconds of all links together, beside hashing, that the claim promises."""

SAMPLES = "HASHBENCH_EVIDENCE"
"""The environment variable that names the folder of public evidence (docs/trust.md)."""

SAMPLE_TIME = datetime(2025, 6, 20, tzinfo=UTC)
"""When the public TDX quote was current."""

IMPORTED = {
    "hashbench.trust": "hashbench.trust.appraisal, hashbench.trust.attestation, hashbench.trust.signatures, "
    "hashbench.trust.signing",
    "PyTorch and hashbench.torch": "hashbench.torch",
}
"""What is imported, by the subject of the reading."""

_ROOM = 1.012
"""Times a model's bytes must fit in a device's free memory: the model, and digests."""

_NONCE_SIZE = 32


class Chain(ClaimExperiment):
    """All links of the chain, on the device of each of `hashbench.torch`'s kernels."""

    name = "chain"
    question = "What does each link of the chain of trust cost beside hashing?"
    rule = (
        f"Signing, loading verified, attesting and appraising take no more than {AT_MOST:g} s together, beside hashing "
        "and the reading and copying of what is hashed, in one process that has done it before; and so they do with a "
        "TDX quote and the reports of eight GPUs, public ones of real hardware, verified in addition. Medians count. "
        "The GPU and the model with the largest sum decide."
    )

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Seconds of each link; the full form has larger models."""
        for package in ("torch", "cryptography", "dcap_qvl"):
            if find_spec(package) is None:
                return iter([Skip(self.name, f"{package} is not installed: install hashbench[torch,trust]")])
        import torch

        models = QUICK_MODELS if quick else FULL_MODELS
        places = [torch.device("cuda", index) for index in range(min(1, torch.cuda.device_count()))]
        return chain.from_iterable(map(partial(_on, models=models, devices=devices), [*places, torch.device("cpu")]))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Seconds of each link beside hashing, and those of all that is not in them."""
        bars = pd.DataFrame(_bars(results.readings), columns=_BAR)
        if bars.empty:
            return []
        bars = bars.sort_values("of", key=lambda of: of.map(_LAST.get).fillna(0), kind="stable")
        with style.style():
            figure = style.stacked_panels(bars, _draw, 1.25 * style.LANE)
            names = style.names(results.readings["device_name"])
            what = f"In one process that has done it before, on a simulated platform: {names}"
            style.headline(figure, _headline(results.readings), what)
        return style.save(figure, path, bars)

    def finding(self, results: Results) -> Finding:
        """Whether all links together stay below the limit, without and with public evidence."""
        sums = sums_of(results.readings[results.readings["device_kind"] == "gpu"])

        def check(column: str, what: str, missing: str) -> Any:
            return worst(
                sums.dropna(subset=column),
                column,
                f"Do {what} take no more than {AT_MOST:g} s beside hashing?",
                lambda one: f"{getattr(one, column):.3f} s for {MODELS[one.model].title} on {one.device_name}.",
                missing,
                at_most=AT_MOST,
            )

        checks = [
            check("links", "all links together", "No chain was measured on a GPU."),
            check("everything", "they, and public evidence in addition,", "No public evidence was verified."),
        ]
        of_links = {link: link.replace(" ", "_") for link in LINKS}
        summed = {**of_links, "together": "links", "with public evidence": "everything"}
        columns: Columns = {
            "GPU": "device_name",
            "model": lambda one: MODELS[one.model].title,
            **{f"{name}, ms": (column, _milliseconds) for name, column in summed.items()},
        }
        return Finding.of(checks, sums.rename(columns=of_links), columns)


EXPERIMENT = Chain()


def sums_of(readings: pd.DataFrame) -> pd.DataFrame:
    """A line for each GPU and model: the seconds of each link beside hashing, of all of them, and with evidence."""
    of_links = readings[(readings["quantity"] == BESIDE) & readings["subject"].isin(LINKS)]
    if of_links.empty:
        return pd.DataFrame(columns=[*GPU, "model", *LINKS, "links", "everything"])
    table = of_links.pivot_table("median", [*GPU, "model"], "subject", sort=False).reset_index()
    table = table.reindex(columns=[*GPU, "model", *LINKS]).dropna()
    of_evidence = readings[(readings["quantity"] == TOTAL) & readings["subject"].isin(EVIDENCE)]
    evidence = of_evidence.pivot_table("median", GPU, "subject").reindex(columns=[*EVIDENCE]).dropna()
    table = table.assign(links=table[[*LINKS]].sum(axis="columns"))
    found = table.merge(evidence.sum(axis="columns").rename("evidence").reset_index(), "left", on=GPU)
    return found.assign(everything=found["links"] + found["evidence"])


def _milliseconds(seconds: float) -> str:
    return number(1e3 * seconds)


# The readings --------------------------------------------------------------------------------------------------------


def _on(place: Any, models: Mapping[str, Sequence[str]], devices: Sequence[Device]) -> Outcomes:
    """All readings on one of PyTorch's devices, if its kernel's device is one of `devices`."""
    from hashbench.torch import kernel_for

    try:
        kernel = kernel_for(place, ALGORITHM)
    except Unavailable as error:
        return iter([Skip(f"chain: PyTorch's {place}", str(error))])
    if kernel.device not in devices:
        return iter(())
    of_models = (_of_model(place, kernel, name) for name in models[kernel.device.kind or "cpu"])
    return chain(_of_evidence(kernel.device), _of_imports(kernel.device), *of_models)


def _of_model(place: Any, kernel: Kernel, name: str) -> Outcomes:
    """All links for one model."""
    nbytes = MODELS[name].nbytes
    holes = nbytes > LARGEST_IN_FILES
    what = f"chain: {kernel.name} {kernel.device.id}, {name}"
    kernel.trim()
    free = room(kernel)
    too_large = None
    if _ROOM * nbytes > free:
        too_large = f"its {1e-9 * nbytes:.1f} GB do not fit in the device's {1e-9 * free:.1f} GB of free memory"
    if too_large and not holes:
        yield Skip(what, too_large)
        return
    try:
        with in_memory((1 << 20) if holes else nbytes + (1 << 20)) as where:
            links = _Links(place, kernel, name, where.folder, holes)
            yield from chain(links.sign(), links.load())
            if too_large:
                yield Skip(f"{what}: {ATTEST} and {APPRAISE}", too_large)
                return
            yield from chain(links.attest(), links.appraise())
    except StorageUnavailable as error:
        yield Skip(what, str(error))


@dataclass
class _Hashing:
    """The seconds from the first call to the last, as the progress of hashing."""

    calls: list[float] = field(default_factory=list)

    def __call__(self, done: int, total: int | None) -> None:
        self.calls.append(perf_counter())

    @property
    def seconds(self) -> float:
        return self.calls[-1] - self.calls[0]


class _Links:
    """One model's chain, link after link: each needs what those before it have made.

    Args:
        place: PyTorch's device, to which the model is loaded.
        kernel: hashes there, and files.
        name: of the model.
        folder: an empty one, for all files.
        holes: whether the model's files have holes instead of bytes.
    """

    def __init__(self, place: Any, kernel: Kernel, name: str, folder: Path, holes: bool) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._place, self._kernel, self._model, self._holes = place, kernel, MODELS[name], holes
        self._folder, self._signature = folder / "model", folder / "model" / "model.sig"
        self._platform, self._evidence, self._policy = folder / "platform", folder / "evidence", folder / "policy.json"
        self._folder.mkdir()
        self._files = len(write_model(name, self._folder, None if holes else kernel))
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._nonce = secrets.token_bytes(_NONCE_SIZE)
        self._signed: Signed | None = None
        self._manifest: Manifest | None = None
        self._tensors: Any = None

    def sign(self) -> Iterator[Reading]:
        """Files to a signature."""
        total, beside = zip(*self._runs(self._sign, RUNS_WITH_FILES), strict=True)
        yield from self._readings(SIGN, total, beside, of_files=True)

    def _sign(self) -> tuple[float, float]:
        from hashbench.trust.signing import sign_model

        hashing = _Hashing()
        begin = perf_counter()
        self._signed = sign_model(
            self._folder, self._sign_statement, self._signature, kernel=self._kernel, progress=hashing
        )
        seconds = perf_counter() - begin
        return seconds, seconds - hashing.seconds

    def _sign_statement(self, statement: bytes) -> Any:
        from hashbench.trust.bundles import by_key
        from hashbench.trust.dsse import signed

        return by_key(signed(statement, self._key, keyid=""), self._key.public_key())

    def load(self) -> Iterator[Reading]:
        """A signature and files to tensors. All but hashing is the time of the smallest tensor, alone."""
        smallest = min(self._model.tensors, key=lambda tensor: tensor.nbytes).name
        beside = list(self._runs(partial(self._load, [smallest]), RUNS))
        total: Sequence[float] = ()
        if not self._holes:
            total = list(self._runs(partial(self._load, None), RUNS_WITH_FILES))
        yield from self._readings(LOAD, total, beside, of_files=True)

    def _load(self, names: Sequence[str] | None) -> float:
        from hashbench import torch as hashbench_torch
        from hashbench.trust import verified_manifest

        self._tensors = None
        gc.collect()
        self._synchronize()
        begin = perf_counter()
        self._manifest = verified_manifest(self._signature, self._key.public_key())
        self._tensors = hashbench_torch.load(self._folder, self._manifest, device=self._place, names=names)
        self._synchronize()
        return perf_counter() - begin

    def attest(self) -> Iterator[Reading]:
        """Tensors in memory to evidence."""
        from hashbench import torch as hashbench_torch
        from hashbench.trust.attestation import by_simulation

        if self._holes:
            self._tensors = module_of(self._model, self._place)
            fill_random(self._tensors, self._place)
            self._manifest = hashbench_torch.manifest(self._tensors, algorithm=ALGORITHM, chunk_size=CHUNK_SIZE)
        signature = self._signature_of(self._manifest)
        total = list(self._runs(partial(self._attest, by_simulation(self._platform), signature), RUNS))
        hashing = sorted(self._runs(self._hashing(), RUNS))[RUNS // 2]
        yield from self._readings(ATTEST, total, [seconds - hashing for seconds in total])

    def _signature_of(self, manifest: Manifest | None) -> bytes:
        """A signature of a manifest, and of what else was signed."""
        assert manifest is not None
        assert self._signed is not None
        files = self._signed.files
        assert files.manifest is not None
        digests = {**files.digests, files.manifest: hashlib.sha256(manifest.text()).digest()}
        text: bytes = self._sign_statement(replace(files, digests=digests).statement().text()).text()
        return text

    def _attest(self, provider: Provider, signature: bytes) -> float:
        from hashbench import torch as hashbench_torch
        from hashbench.trust.attestation import Verdict, attest
        from hashbench.trust.evidence import write_evidence

        assert self._manifest is not None
        begin = perf_counter()
        report = hashbench_torch.verify(self._tensors, self._manifest)
        verdict = Verdict(report.ok, f"{'gpu' if self._place.type == 'cuda' else 'host'} memory")
        files = attest(self._manifest, "manifest.json", verdict, self._nonce, provider, signature=signature)
        write_evidence(self._evidence, files)
        seconds = perf_counter() - begin
        if not report.ok:
            raise VerificationError(f"what was loaded is not what was signed: {report}")
        return seconds

    def _hashing(self) -> Callable[[], float]:
        """What gives the seconds of hashing the tensors in memory, alone."""
        from hashbench.torch.places import roots_on

        tensors = self._tensors if isinstance(self._tensors, dict) else self._tensors.state_dict()
        found = [tensor.detach() for _, tensor in sorted(tensors.items())]
        if self._place.type == "cuda":
            buffers = [Buffer(tensor, tensor.data_ptr(), tensor.nbytes) for tensor in found]
            return self._kernel.prepare("tree", buffers, CHUNK_SIZE).run
        roots_of = roots_on(self._place, ALGORITHM, CHUNK_SIZE)

        def run() -> float:
            begin = perf_counter()
            roots_of(found)
            return perf_counter() - begin

        return run

    def appraise(self) -> Iterator[Reading]:
        """Evidence and a policy to a verdict."""
        self._policy.write_text(json.dumps(self._asked()))
        seconds = list(self._runs(self._appraise, RUNS))
        yield from self._readings(APPRAISE, seconds, seconds)
        self._tensors = None
        self._synchronize()

    def _asked(self) -> Mapping[str, Any]:
        """A policy that asks for this model, its signer and the simulated domain."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        from hashbench.trust.simulated import Domain

        assert self._manifest is not None
        signer = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        domain = Domain()
        registers = {f"rtmr{index}": [value.hex()] for index, value in enumerate(domain.rtmrs)}
        return {
            "kind": "hashbench-policy",
            "version": 1,
            "model": {"manifests": [hashlib.sha256(self._manifest.text()).hexdigest()], "signers": [signer]},
            "max_age_seconds": 600,
            "tdx": {"mr_td": [domain.mr_td.hex()], **registers, "max_collateral_age_days": 1},
        }

    def _appraise(self) -> float:
        from hashbench.trust.appraisal import appraise
        from hashbench.trust.certificates import read_certificates
        from hashbench.trust.evidence import read_evidence
        from hashbench.trust.policy import read_policy
        from hashbench.trust.simulated import ROOT_NAME

        begin = perf_counter()
        (root,) = read_certificates(self._platform / ROOT_NAME)
        files, policy = read_evidence(self._evidence), read_policy(self._policy)
        found = appraise(files, self._nonce, policy, datetime.now(UTC), simulated_root=root)
        seconds = perf_counter() - begin
        if not found.ok:
            raise VerificationError(f"the attestation is right, but the appraisal is: {' '.join(found.lines())}")
        return seconds

    def _runs(self, run: Callable[[], Any], count: int) -> Iterator[Any]:
        """What each run gives, after a first."""
        run()
        return (run() for _ in range(count))

    def _synchronize(self) -> None:
        import torch

        if self._place.type == "cuda":
            torch.cuda.synchronize(self._place)
            if self._tensors is None:
                torch.cuda.empty_cache()

    def _readings(
        self, link: str, total: Sequence[float], beside: Sequence[float], *, of_files: bool = False
    ) -> Iterator[Reading]:
        import torch

        device = self._kernel.device
        for quantity, seconds in ((TOTAL, total), (BESIDE, beside)):
            if not seconds or (self._holes and of_files and quantity == TOTAL):
                continue
            yield Reading.of(
                seconds,
                device,
                subject=link,
                quantity=quantity,
                unit="s",
                kernel=self._kernel.name,
                model=self._model.name,
                files=self._files if of_files else None,
                conditions=f"{len(self._model.tensors):,} tensors, {1e-9 * self._model.nbytes:.3g} GB",
                storage=("holes in memory" if self._holes else "memory") if of_files else "",
                algorithm=ALGORITHM,
                source=f"hashbench {version('hashbench')}, PyTorch {torch.__version__}, {device.framework}",
                note=f"Trees in chunks of {format_size(CHUNK_SIZE)}. {_HOW[link]}",
            )


_HOW = {
    SIGN: "Beside hashing is all but the time from the first to the last progress of hashing; P-256.",
    LOAD: "From the signature. Beside hashing is the time to load the smallest tensor alone.",
    ATTEST: "Verified in place. The quote is a simulated platform's. Beside hashing is all but the hash's median.",
    APPRAISE: "A simulated quote with its collateral, the signature, and a policy that asks for both.",
}
"""The notes of the readings, by link."""


# What is not of a model ----------------------------------------------------------------------------------------------


def _of_evidence(device: Device) -> Outcomes:
    """The seconds to verify public evidence of real hardware."""
    from hashbench.trust import nvidia, tdx

    folder = Path(os.environ.get(SAMPLES, ""))
    names = ("tdx_quote_v4.bin", "tdx_quote_collateral.json", "nvidia_gpu_evidence.json")
    if SAMPLES not in os.environ or not all((folder / name).is_file() for name in names):
        yield Skip("chain: public evidence", f"{SAMPLES} names no folder with {', '.join(names)}")
        return
    quote, collateral, reports = ((folder / name).read_bytes() for name in names)

    def of_tdx() -> None:
        tdx.verify_quote(tdx.parse_quote(quote), collateral, SAMPLE_TIME)

    def of_gpus() -> None:
        for report in nvidia.parse_reports(reports):
            nvidia.verify_report(report, datetime.now(UTC))

    how = {TDX: f"At {SAMPLE_TIME.date()}.", GPUS: "Certificates that were seen before are remembered."}
    for subject, verify in ((TDX, of_tdx), (GPUS, of_gpus)):
        seconds = [_seconds(verify) for _ in range(1 + RUNS)]
        source = f"hashbench {version('hashbench')}, " + (f"dcap-qvl {version('dcap-qvl')}" if subject == TDX else
                                                          f"cryptography {version('cryptography')}")  # fmt: skip
        reading = partial(Reading.of, device=device, subject=subject, unit="s", source=source)
        yield reading(seconds[:1], quantity=FIRST, note="The first time in a process.")
        yield reading(seconds[1:], quantity=TOTAL, note=how[subject])


def _seconds(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


def _of_imports(device: Device) -> Outcomes:
    """The seconds that a process takes once, to import what the chain needs."""
    for subject, modules in IMPORTED.items():
        program = f"from time import perf_counter as now; begin = now(); import {modules}; print(now() - begin)"
        try:
            seconds = [
                float(program_output([sys.executable, "-P", "-c", program], 4 * ASK_SECONDS))
                for _ in range(1 + RUNS_WITH_FILES)
            ]
        except PeerError as error:
            yield Skip(f"chain: import of {subject}", str(error))
            continue
        yield Reading.of(
            seconds[1:],
            device,
            subject=subject,
            quantity=IMPORT,
            unit="s",
            source=f"hashbench {version('hashbench')}, Python {sys.version.split()[0]}",
            note="Once a process, each a new one.",
        )


# The figure ----------------------------------------------------------------------------------------------------------

_MS = "ms beside hashing"
_VERIFIED, _IMPORTED = "Public evidence, verified", "Import, once a process"
_LAST = {_VERIFIED: 1, _IMPORTED: 2}
_BAR = ["of", "name", "unit", "text", *VALUES]
"""The columns of a bar."""


def _bars(readings: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    totals = {
        (one.device_name, one.model, one.subject): one.median for one in lines(readings[readings["quantity"] == TOTAL])
    }
    for one in lines(readings):
        in_all = totals.get((one.device_name, one.model, one.subject))
        if one.quantity == BESIDE:
            text = f"{1e3 * one.median:.3g}"
            if in_all is not None and one.subject != APPRAISE:
                text += f"; in all {1e3 * in_all:,.3g} ms" if in_all < 1 else f"; in all {in_all:.3g} s"
            yield (f"{MODELS[one.model].title}, {one.conditions}", one.subject, _MS, text, *_values(one, 1e3))
        elif one.quantity == TOTAL and one.subject in EVIDENCE:
            yield (_VERIFIED, one.subject, _MS, f"{1e3 * one.median:.3g}", *_values(one, 1e3))
        elif one.quantity == IMPORT:
            yield (_IMPORTED, one.subject, "seconds", f"{one.median:.3g}", *_values(one, 1))


def _values(one: Line, unit: float) -> list[float]:
    return [unit * getattr(one, name) for name in VALUES]


def _draw(panel: Axes, bars: pd.DataFrame, places: Sequence[float]) -> None:
    """Horizontal bars, the first at the top."""
    look = {"height": 0.74, "color": style.COLOURS["blue"], "linewidth": 0}
    for place, bar in zip(places, lines(bars), strict=True):
        style.bar(panel, place, [getattr(bar, name) for name in VALUES], bar.text, look=look)
    style.name_lanes(panel, places, bars["name"], width=1.2)
    panel.set_xlim(0, 1.7 * bars["q3"].max())
    panel.set_xlabel(bars["unit"].iloc[0])


def _headline(readings: pd.DataFrame) -> str:
    """What all links together take, for the model and device for which it is most."""
    sums = sums_of(readings).sort_values("links", ascending=False, kind="stable")
    if sums.empty:
        return "What the links of the chain of trust take beside hashing"
    most = next(lines(sums))
    return f"{MODELS[most.model].title}: all links together take {1e3 * most.links:.3g} ms beside hashing"
