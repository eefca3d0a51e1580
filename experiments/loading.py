"""The loading experiment: how long does it take from a model's files to its tensors on the device, verified or not?

A model's tensors, filled with random bytes, are written to safetensors files as the model's authors cut them, in memory
or on a disk. Then this project's loader, which hands out nothing that it has not verified, and those of other projects,
which verify nothing, bring them to the device. What each has brought is compared with the manifest after its time was
taken.
"""

from __future__ import annotations

import gc
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.patches import Patch

from hashbench.bench.experiment import SEED, Experiment, Skip
from hashbench.bench.frames import VALUES, Line, Results, lines
from hashbench.bench.inventories import MODELS, Tensor
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE
from hashbench.experiments import style
from hashbench.experiments.programs import Outcomes
from hashbench.experiments.storage import (
    Storage,
    StorageUnavailable,
    in_memory,
    leave_page_cache,
    on_disk,
    random_pieces,
    write_pieces,
)
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Device, Kernel, Unavailable

if TYPE_CHECKING:
    from hashbench.model.manifest import Manifest

ALGORITHM = "sha256"

QUICK_MODELS = {"gpu": ("llama-3.2-1b",), "cpu": ("bert-base",)}
FULL_MODELS = {"gpu": ("llama-3.2-1b", "llama-3.1-8b"), "cpu": ("bert-base",)}
"""Models by kind of device."""

SHARD_SIZE = 5 * 10**9
"""Bytes of a file at most, as transformers cuts models."""

RUNS = 3
"""Timed runs after the first."""

FROM_DISK = 20 * 10**9
"""Bytes that each loader reads from a disk in timed runs after the first, of which there are at least two: what a disk
makes varies from run to run."""

LARGEST_ON_DISK = 20 * 10**9
"""Bytes of the largest model that is read from a disk."""

SECONDS, FIRST = "total seconds", "first seconds"
"""The quantities: of a process that has loaded before, and of the first that it loads, with what a loader prepares."""

VERIFIED, UNVERIFIED = "verified", "not verified"
"""The conditions."""

HASHBENCH = "hashbench.torch.load"
PAST_CACHE = "hashbench.torch.load, past the page cache"
THEN_HASHED = "load_file with pread, then hashed"
"""Subjects of the readings that verify."""

_LOOKS: Mapping[str, Mapping[str, Any]] = {
    VERIFIED: {"facecolor": "#444444", "linewidth": 0},
    UNVERIFIED: {"facecolor": "#CCCCCC", "linewidth": 0},
}

State = Mapping[str, Any]
Loader = Callable[[Sequence[Path], Any, ExitStack], State]
"""Loads files to one of PyTorch's devices. The tensors are valid until the stack ends."""


class Loading(Experiment):
    """Models loaded to the device of each of `hashbench.torch`'s kernels, by this project's loader and by others."""

    name = "loading"
    question = "How long does it take from a model's files to its tensors on the device, verified or not?"

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Seconds of each loader; the full form has more models."""
        try:
            import torch
        except ImportError as error:
            return iter([Skip(self.name, f"PyTorch cannot be imported ({error}): install hashbench[torch]")])
        models = QUICK_MODELS if quick else FULL_MODELS
        places = [torch.device("cuda", index) for index in range(min(1, torch.cuda.device_count()))]
        return chain.from_iterable(map(partial(_on, models=models, devices=devices), [*places, torch.device("cpu")]))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Bars of seconds, a panel per model and storage."""
        shown = results.readings[results.readings["quantity"] == SECONDS]
        if shown.empty:
            return []
        size = shown["model"].map(lambda name: MODELS[name].nbytes)
        order = {"device_kind": False, "bytes": False, "storage": False, "median": True}
        shown = shown.assign(bytes=size).sort_values([*order], ascending=[*order.values()])
        parts = [part for _, part in shown.groupby(["device_kind", "model", "storage"], sort=False)]
        with style.style():
            figure, grid = style.panels([1.2 * style.LANE * (len(part) + 1) for part in parts])
            for panel, part in zip(grid.flat, parts, strict=True):
                _draw(panel, part)
            grid[-1, 0].set_xlabel("seconds, median and quartiles")
            style.legend(figure, [Patch(**look, label=name) for name, look in _LOOKS.items()])
            names = style.names(shown["device_name"])
            style.headline(figure, _headline(shown), f"From safetensors files to tensors on the device: {names}")
        table = shown[["device_name", "model", "bytes", "storage", "subject", "conditions", *VALUES, "repeats"]]
        return style.save(figure, path, table)


EXPERIMENT = Loading()


# The loaders ----------------------------------------------------------------------------------------------------------


def _hashbench(
    manifest: Manifest, files: Sequence[Path], place: Any, until: ExitStack, *, past_cache: bool = False
) -> State:
    from hashbench import torch as hashbench_torch

    return hashbench_torch.load(files[0].parent, manifest, device=place, past_cache=past_cache)


def _load_file(files: Sequence[Path], place: Any, until: ExitStack, *, backend: str) -> State:
    from safetensors.torch import load_file

    options = {} if backend == "mmap" else {"backend": backend}  # which older versions do not have
    loaded: dict[str, Any] = {}
    for file in files:
        loaded |= load_file(file, device=str(place), **options)
    return loaded


def _then_moved(files: Sequence[Path], place: Any, until: ExitStack) -> State:
    import torch

    return {
        name: tensor.to(place) for name, tensor in _load_file(files, torch.device("cpu"), until, backend="mmap").items()
    }


def _fastsafetensors(files: Sequence[Path], place: Any, until: ExitStack) -> State:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader = SafeTensorsFileLoader(SingleGroup(), str(place), nogds=True)
    until.callback(loader.close)
    loader.add_filenames({0: [str(file) for file in files]})
    buffers = loader.copy_files_to_device()
    until.callback(buffers.close)
    return {name: buffers.get_tensor(name) for name in loader.get_keys()}


def _runai(files: Sequence[Path], place: Any, until: ExitStack) -> State:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(file) for file in files], device="cpu")
        # Its buffers are used again: a loader for the host copies each tensor, as vLLM does.
        return {name: tensor.to(place, copy=True) for name, tensor in streamer.get_tensors()}


def _then_hashed(manifest: Manifest, files: Sequence[Path], place: Any, until: ExitStack) -> State:
    from hashbench import torch as hashbench_torch

    loaded = _load_file(files, place, until, backend="pread")
    if not hashbench_torch.verify(loaded, manifest).ok:
        raise VerificationError(f"{THEN_HASHED}: the tensors are not what the manifest says")
    return loaded


@dataclass(frozen=True)
class _Rival:
    """A loader.

    Attributes:
        subject: of its readings.
        package: what must be installed.
        load: loads.
        kind: the kind of device that it is measured on; None is any.
        conditions: whether it verifies.
        cold: whether it is measured only where the system holds no page of the files.
    """

    subject: str
    package: str
    load: Loader
    kind: str | None = None
    conditions: str = UNVERIFIED
    cold: bool = False


def _rivals(manifest: Manifest) -> list[_Rival]:
    return [
        _Rival(HASHBENCH, "hashbench", partial(_hashbench, manifest), conditions=VERIFIED),
        _Rival(PAST_CACHE, "hashbench", partial(_hashbench, manifest, past_cache=True), None, VERIFIED, cold=True),
        # On a CPU it only maps the file: nothing is read.
        _Rival("safetensors load_file", "safetensors", partial(_load_file, backend="mmap"), "gpu"),
        _Rival("load_file with pread", "safetensors", partial(_load_file, backend="pread"), "cpu"),
        _Rival(THEN_HASHED, "safetensors", partial(_then_hashed, manifest), "cpu", VERIFIED),
        _Rival("load_file, then .to(device)", "safetensors", _then_moved, "gpu"),
        _Rival("fastsafetensors", "fastsafetensors", _fastsafetensors, "gpu"),
        _Rival("runai-model-streamer", "runai-model-streamer", _runai),
    ]


# The readings ---------------------------------------------------------------------------------------------------------


def _on(place: Any, models: Mapping[str, Sequence[str]], devices: Sequence[Device]) -> Outcomes:
    """All readings on one of PyTorch's devices, if its kernel's device is one of `devices`."""
    from hashbench.torch import kernel_for

    try:
        kernel = kernel_for(place, ALGORITHM)
    except Unavailable as error:
        return iter([Skip(f"loading: PyTorch's {place}", str(error))])
    if kernel.device not in devices:
        return iter(())
    return chain.from_iterable(_of_model(place, kernel, name) for name in models[kernel.device.kind or "cpu"])


def _of_model(place: Any, kernel: Kernel, name: str) -> Outcomes:
    nbytes = MODELS[name].nbytes
    what = f"loading: {kernel.name} {kernel.device.id}, {name}"
    storages: list[Callable[[int], AbstractContextManager[Storage]]] = [in_memory]
    if nbytes <= LARGEST_ON_DISK:
        storages.append(on_disk)
    else:
        reason = f"its {1e-9 * nbytes:.1f} GB are more than the {1e-9 * LARGEST_ON_DISK:g} that are read from one"
        yield Skip(f"{what} from a disk", reason)
    for storage in storages:
        try:
            with storage(nbytes + (1 << 20)) as where:
                files = write_model(name, where.folder, kernel)
                yield from _from(place, kernel, name, files, where, cold=storage is on_disk)
        except StorageUnavailable as error:
            yield Skip(what, str(error))


def write_model(name: str, folder: Path, kernel: Kernel | None) -> list[Path]:
    """Writes a model's tensors, of random bytes, to the files of a folder.

    Args:
        name: the inventory.
        folder: for the files and their index.
        kernel: makes the random bytes; None leaves a hole in each file, which takes no room.

    Raises:
        StorageUnavailable: they cannot be written.
    """
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in MODELS[name].tensors:
        if tensor.nbytes > room or not shards:
            shards.append([])
            room = SHARD_SIZE
        room -= tensor.nbytes
        shards[-1].append(tensor)
    paths = [folder / f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    index = {tensor.name: path.name for path, shard in zip(paths, shards, strict=True) for tensor in shard}
    try:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        for number, (path, shard) in enumerate(zip(paths, shards, strict=True)):
            _write_shard(path, shard, kernel, SEED + (number << 32))
    except OSError as error:
        raise StorageUnavailable(f"the model's files cannot be written: {error.strerror}") from None
    return paths


def _write_shard(path: Path, tensors: Sequence[Tensor], kernel: Kernel | None, seed: int) -> None:
    header, end = {}, 0
    for tensor in tensors:
        place = [end, end := end + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if kernel is None:
            file.truncate(8 + len(text) + end)
            return
        file.flush()
        write_pieces(file.fileno(), random_pieces(kernel, end, seed, 8 + len(text)))


def _from(place: Any, kernel: Kernel, name: str, files: Sequence[Path], where: Storage, *, cold: bool) -> Outcomes:
    """The readings of all loaders of one model from one storage. They load in turn, for a disk is not always as fast;
    and each run begins with another one, since a disk may be slower after a fast loader than after a slow one.

    Raises:
        StorageUnavailable: files stay in memory.
        VerificationError: some loader loaded another model; raised after the readings of the others.
    """
    import hashbench

    manifest = hashbench.manifest(files[0].parent, algorithm=ALGORITHM, chunk_size=CHUNK_SIZE, kernel=kernel)
    kernel.trim()
    loads: dict[_Rival, list[float]] = {
        rival: []
        for rival in _rivals(manifest)
        if rival.kind in (None, kernel.device.kind) and (cold or not rival.cold)
    }
    wrong: list[VerificationError] = []
    runs = max(2, FROM_DISK // MODELS[name].nbytes) if cold else RUNS
    for run in range(1 + runs):
        turn = deque(loads.items())
        turn.rotate(-run)
        for rival, samples in turn:
            what = f"loading: {rival.subject}, {kernel.device.kind}, {name} from {where.place}"
            if cold and not all(leave_page_cache(file) for file in files):
                raise StorageUnavailable(
                    "the system keeps temporary files in memory, so that no read of a disk can be timed"
                )
            try:
                samples.append(_timed(rival, manifest, files, place, check=run == 0))
                continue
            except VerificationError as error:
                wrong.append(error)
            except ImportError as error:
                yield Skip(what, f"{rival.package} cannot be imported: {error}")
            except (RuntimeError, OSError) as error:
                yield Skip(what, " ".join(f"{type(error).__name__}: {error}".split()))
            del loads[rival]
    for rival, (first, *later) in loads.items():
        note = "A process that has loaded a model before" if not cold else "The system held no page of the files"
        note += f"; {1e-9 * MODELS[name].nbytes / sorted(later)[len(later) // 2]:.2f} GB/s."
        of = partial(_reading, kernel, rival, name, f"{where.place}{' with a cold cache' if cold else ''}")
        if not cold:
            yield of(FIRST, [first], "The first model that this loader has loaded in its process.")
        yield of(SECONDS, later, note)
    if wrong:
        raise wrong[0]


def _timed(rival: _Rival, manifest: Manifest, files: Sequence[Path], place: Any, *, check: bool) -> float:
    """The seconds that a loader takes.

    Args:
        rival: the loader.
        manifest: of the model.
        files: the model's.
        place: PyTorch's device.
        check: whether what it loads is compared with the manifest, after its time is taken.

    Raises:
        VerificationError: it is not what the manifest says.
        ImportError: the loader is not installed.
    """
    import torch

    from hashbench import torch as hashbench_torch

    with ExitStack() as until:
        begin = perf_counter()
        loaded = rival.load(files, place, until)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds = perf_counter() - begin
        if check and not (report := hashbench_torch.verify(loaded, manifest)).ok:
            raise VerificationError(f"{rival.subject} loaded another model: {report}")
        del loaded
    gc.collect()
    torch.cuda.empty_cache()
    return seconds


def _reading(
    kernel: Kernel, rival: _Rival, name: str, storage: str, quantity: str, seconds: Sequence[float], note: str
) -> Reading:
    import torch

    return Reading.of(
        seconds,
        kernel.device,
        subject=rival.subject,
        quantity=quantity,
        unit="s",
        kernel=kernel.name if rival.conditions == VERIFIED else "",
        model=name,
        conditions=rival.conditions,
        storage=storage,
        algorithm=ALGORITHM if rival.conditions == VERIFIED else "",
        source=f"{rival.package} {version(rival.package)}, PyTorch {torch.__version__}",
        note=note,
    )


# The figure -----------------------------------------------------------------------------------------------------------


def _headline(shown: pd.DataFrame) -> str:
    """This project's loader beside the fastest other one, for the largest model."""
    of = shown[shown["bytes"] == shown["bytes"].max()]
    of = of[of["storage"] == of["storage"].iloc[0]].sort_values("median", kind="stable")
    ours, others = of[of["subject"] == HASHBENCH], of[of["conditions"] == UNVERIFIED]
    parts = [
        f"{line.subject} {_seconds(line)}, {line.conditions}" for line in chain(lines(ours[:1]), lines(others[:1]))
    ]
    return f"{MODELS[of['model'].iloc[0]].title}: {'; '.join(parts)}"


def _seconds(line: Line) -> str:
    return f"{line.median:.3g} s ({1e-9 * MODELS[line.model].nbytes / line.median:.3g} GB/s)"


def _draw(panel: Any, part: pd.DataFrame) -> None:
    for place, line in enumerate(lines(part)):
        style.bar(panel, place, _spread(line), _seconds(line), look=_LOOKS[line.conditions])
    first = next(lines(part))
    style.name_lanes(panel, range(len(part)), [line.subject for line in lines(part)], 1.35)
    panel.set_ylim(len(part) - 0.4, -0.6)
    panel.set_xlim(0, 2.1 * part["q3"].max())
    model = MODELS[first.model]
    panel.set_title(f"{model.title}, from {first.storage.partition(' (')[0]}", loc="left")


def _spread(line: Line) -> tuple[float, float, float]:
    return line.q1, line.median, line.q3
