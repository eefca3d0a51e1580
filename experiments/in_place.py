"""The in-place experiment: how long does it take from a Python call to the verdict on a module in memory?

A PyTorch module with the tensors of a real model, filled with random bytes, is verified against its manifest where it
is. Then bits are flipped in its memory, one at a time, and each must be found and its tensor named. In addition, trees
over many small tensors are compared with one buffer of the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from itertools import chain, starmap
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hashbench.bench.experiment import SEED, Experiment, Point, Skip, room
from hashbench.bench.frames import SPEED, VALUES, Results, lines
from hashbench.bench.inventories import MODELS, Model, Tensor
from hashbench.bench.output_check import Coverage, check_output
from hashbench.bench.readings import Reading
from hashbench.bench.results import REFERENCE
from hashbench.bench.sweeps import CHUNK_SIZE, KiB
from hashbench.experiments import style
from hashbench.experiments.programs import Outcomes
from hashbench.hashing.sizes import format_size
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, Buffer, Device, Kernel, Unavailable, kernel_class

if TYPE_CHECKING:
    from hashbench.model.manifest import Manifest

ALGORITHM = "sha256"
"""The algorithm of the readings; the rows are of every algorithm."""

QUICK_MODELS = {"gpu": ("llama-3.2-1b",), "cpu": ("bert-base",)}
FULL_MODELS = {"gpu": ("llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"), "cpu": ("bert-base",)}
"""Models by kind of device."""

SMALL_TENSORS = {"gpu": 10_000, "cpu": 1_000}
SMALLEST, LARGEST = 4 * KiB, 256 * KiB
"""The number of small tensors, and their sizes in bytes: even numbers, evenly distributed."""

RUNS = {"gpu": 9, "cpu": 3}
FLIPS = {"gpu": 9, "cpu": 3}

IN_PLACE, SMALL = "module in place", "small tensors in place"
"""The subjects of the readings."""

VERDICT, HASHING, NAMED = "call to verdict", "hashing alone", "call to the name of a tensor with a flipped bit"
"""The quantities of the readings, with "seconds": wall-clock seconds, except hashing, which is in device seconds."""

ONE_BUFFER, MANY = "one buffer", "small tensors"
"""The inputs of the rows."""

DTYPES = {"F32": "float32", "BF16": "bfloat16"}
_MEMORY = 1.012
"""How many times a model's bytes must be free: for a digest per chunk, and padding between tensors."""


def _headline(readings: pd.DataFrame) -> str:
    """How soon the verdict on the largest model is there."""
    verdicts = readings[readings["quantity"].str.startswith(VERDICT) & (readings["model"] != "")]
    if verdicts.empty:
        return "How fast many small tensors are hashed"
    size = verdicts["model"].map(lambda name: MODELS[name].nbytes)
    best = next(lines(verdicts[size == size.max()].sort_values("median", kind="stable")))
    model = MODELS[best.model]
    return f"{model.title} ({1e-9 * model.nbytes:.3g} GB): {best.median:.3g} s from the call to the verdict"


class InPlace(Experiment):
    """PyTorch modules verified where they are, and many small tensors against one buffer."""

    name = "in-place"
    question = "How long does it take from a Python call to the verdict on a module in memory?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """Trees over many small tensors, and over one buffer of the same bytes."""
        lengths = small_lengths(device.kind or "cpu")
        for algorithm in ALGORITHMS:
            for shape in ((sum(lengths),), lengths):
                yield Point(device, "tree", algorithm, shape, CHUNK_SIZE)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Modules and small tensors, on the devices of `hashbench.torch`'s kernels; more models in the full form."""
        try:
            import torch
        except ImportError as error:
            return iter([Skip(self.name, f"PyTorch cannot be imported ({error}): install hashbench[torch]")])
        models: Mapping[str, Sequence[str]] = QUICK_MODELS if quick else FULL_MODELS
        places = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        return chain.from_iterable(map(partial(_on, models=models, devices=devices), [*places, torch.device("cpu")]))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Above, seconds from the call to the verdict, and how many of them are hashing; below, the throughput of small
        tensors beside that of one buffer."""
        rows, readings = results.rows, results.readings
        bars = pd.DataFrame([*_seconds_bars(readings), *_throughput_bars(rows)], columns=_BAR)
        if bars.empty:
            return []
        with style.style():
            figure = style.stacked_panels(bars, _draw)
            names = style.names(rows["device_name"], readings["device_name"])
            what = f"Modules verified in memory, chunks of {format_size(CHUNK_SIZE)}: {names}"
            style.headline(figure, _headline(readings), what)
        table = bars.assign(what=bars["of"] + ": " + bars["quantity"])
        return style.save(figure, path, table[["what", "unit", *VALUES]])


EXPERIMENT = InPlace()


def small_lengths(kind: str) -> tuple[int, ...]:
    """The bytes of each small tensor on a kind of device, "gpu" or "cpu": the same in every run."""
    drawn = random.Random(SEED)
    return tuple(drawn.randrange(SMALLEST, LARGEST + 1, 2) for _ in range(SMALL_TENSORS[kind]))


def small_tensors(kind: str) -> Model:
    """The small tensors as a model."""
    tensors = (Tensor(f"small.{i:05}", (n // 2,), "BF16") for i, n in enumerate(small_lengths(kind)))
    return Model("small-tensors", f"{SMALL_TENSORS[kind]:,} small tensors", tuple(tensors))


# The readings --------------------------------------------------------------------------------------------------------


def _on(place: Any, models: Mapping[str, Sequence[str]], devices: Sequence[Device]) -> Outcomes:
    """All readings on one of PyTorch's devices, if its kernel's device is one of `devices`."""
    from hashbench.torch import kernel_for

    try:
        kernel = kernel_for(place, ALGORITHM)
    except Unavailable as error:
        return iter([Skip(f"in-place: PyTorch's {place}", str(error))])
    if kernel.device not in devices:
        return iter(())
    kind = kernel.device.kind or "cpu"
    subjects = [*((MODELS[name], IN_PLACE) for name in models[kind]), (small_tensors(kind), SMALL)]
    return chain.from_iterable(starmap(partial(_of_model, place, kernel), subjects))


def _of_model(place: Any, kernel: Kernel, model: Model, subject: str) -> Outcomes:
    import torch

    from hashbench.torch import manifest

    kernel.trim()
    free = room(kernel)
    if _MEMORY * model.nbytes > free:
        reason = f"its {1e-9 * model.nbytes:.2f} GB do not fit in the device's {1e-9 * free:.2f} GB of free memory"
        yield Skip(f"in-place: {kernel.name} {kernel.device.id}, {model.name}", reason)
        return
    module = module_of(model, place)
    fill_random(module, place)
    expected = manifest(module, algorithm=ALGORITHM, chunk_size=CHUNK_SIZE)
    coverage = _check(kernel, module, expected)
    reading = partial(_reading, kernel, model, subject, coverage)
    kind = kernel.device.kind or "cpu"
    yield reading(VERDICT, [_verdict(module, expected) for _ in range(RUNS[kind])])
    if place.type != "cpu":  # kernels for CPUs may use memory apart from PyTorch's
        work = kernel.prepare("tree", _buffers(kernel, module), CHUNK_SIZE)
        yield reading(HASHING, [work.run() for _ in range(RUNS[kind])])
        del work
    yield reading(NAMED, list(_flips(module, expected, FLIPS[kind])))
    _verdict(module, expected)  # every bit is as it was
    del module
    torch.cuda.empty_cache()


def module_of(model: Model, place: Any) -> Any:
    """A PyTorch module with a model's tensors as parameters, uninitialized, on one of PyTorch's devices."""
    import torch

    return module_with(
        {
            tensor.name: torch.empty(tensor.shape, dtype=getattr(torch, DTYPES[tensor.dtype]), device=place)
            for tensor in model.tensors
        }
    )


def module_with(tensors: Mapping[str, Any]) -> Any:
    """A PyTorch module with tensors as parameters, by the names that its state dict has for them."""
    import torch

    module = torch.nn.Module()
    for full_name, data in tensors.items():
        *path, name = full_name.split(".")
        parent = module
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, torch.nn.Module())
            parent = parent.get_submodule(part)
        parent.register_parameter(name, torch.nn.Parameter(data, requires_grad=False))
    return module


def fill_random(module: Any, place: Any) -> None:
    """Fills a module's tensors, which are on `place`, with random bytes: the same every time."""
    import torch

    generator = torch.Generator(place).manual_seed(SEED)
    for _, tensor in sorted(module.state_dict().items()):
        tensor.view(torch.uint8).random_(generator=generator)


def _buffers(kernel: Kernel, module: Any) -> list[Buffer]:
    """The module's tensors as buffers of a kernel, sorted by name as a manifest's entries are."""
    import torch

    tensors = (tensor.detach().view(torch.uint8) for _, tensor in sorted(module.state_dict().items()))
    return [kernel.view(tensor if tensor.is_cuda else tensor.numpy()) for tensor in tensors]


@cache
def _reference() -> Kernel:
    name, device = REFERENCE
    return next(kernel_class(name)(d, ALGORITHM) for d in kernel_class(name).devices() if d.id == device)


def _check(kernel: Kernel, module: Any, expected: Manifest) -> Coverage:
    """Checks the manifest's roots against hashlib.

    Returns:
        How much was checked.

    Raises:
        VerificationError: a root is wrong.
    """
    roots = np.frombuffer(b"".join(entry.root for entry in expected.entries), np.uint8)
    viewer = _reference() if kernel.device.kind == "cpu" else kernel
    digests = roots.reshape(len(expected.entries), -1)
    return check_output(viewer, "tree", _buffers(viewer, module), CHUNK_SIZE, digests, SEED)


def _verdict(module: Any, expected: Manifest, differs: tuple[str, ...] = ()) -> float:
    """The seconds from the call to its verdict.

    Raises:
        VerificationError: the verdict is not that exactly the tensors `differs` differ.
    """
    from hashbench import torch as hashbench_torch

    begin = perf_counter()
    report = hashbench_torch.verify(module, expected)
    seconds = perf_counter() - begin
    if (report.differs, report.missing, report.extra) != (differs, (), ()):
        raise VerificationError(f"{', '.join(differs) or 'nothing'} should differ, but the verdict is: {report}")
    return seconds


def _flips(module: Any, expected: Manifest, count: int) -> Iterator[float]:
    """The seconds to each verdict with one bit flipped: the very first, the very last, and others at random."""
    import torch

    tensors = sorted(module.state_dict().items())
    drawn = random.Random(SEED)
    for turn in range(count):
        name, tensor = {0: tensors[0], 1: tensors[-1]}.get(turn) or drawn.choice(tensors)
        data = tensor.view(torch.uint8).view(-1)
        place, bit = {0: (0, 7), 1: (len(data) - 1, 0)}.get(turn) or (drawn.randrange(len(data)), drawn.randrange(8))
        data[place] ^= 1 << bit
        yield _verdict(module, expected, (name,))
        data[place] ^= 1 << bit


def _reading(
    kernel: Kernel, model: Model, subject: str, coverage: Coverage, quantity: str, seconds: Sequence[float]
) -> Reading:
    import torch

    verified = {"all": "all bytes by hashlib", "sample": "hashlib over a sample, and everything above the leaves"}
    return Reading.of(
        seconds,
        kernel.device,
        subject=subject,
        quantity=f"{quantity} seconds",
        unit="s",
        kernel=kernel.name,
        model=model.name if subject == IN_PLACE else "",
        conditions=f"{len(model.tensors):,} tensors, {1e-9 * model.nbytes:.3g} GB",
        algorithm=ALGORITHM,
        source=f"hashbench {version('hashbench')}, PyTorch {torch.__version__}, {kernel.device.framework}",
        note=f"Trees in chunks of {format_size(CHUNK_SIZE)}; the manifest was checked first: {verified[coverage]}.",
    )


# The figure ----------------------------------------------------------------------------------------------------------

_BAR = ["of", "quantity", "unit", "kernel", *VALUES]
"""The columns of a bar: the group that it belongs to, what tells it from the others there, and its values."""

_SHORT = {NAMED: "naming a changed tensor"}
"""What a bar is called where its quantity is too long."""


def _seconds_bars(readings: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    for one in lines(readings):
        title = MODELS[one.model].title if one.model else small_tensors(one.device_kind).title
        quantity = one.quantity.removesuffix(" seconds")
        yield f"{title}, {one.kernel}", quantity, "seconds", one.kernel, *(getattr(one, name) for name in VALUES)


def _throughput_bars(rows: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    for row in lines(rows.sort_values(["algorithm", "kernel", "device", "segments"], kind="stable")):
        shape = f"{row.segments:,} {MANY}" if row.segments > 1 else ONE_BUFFER
        of = f"{ALGORITHMS[row.algorithm].title}, {row.kernel} {row.device}"
        yield of, shape, "GB/s", row.kernel, *(getattr(row, name) for name in SPEED)


def _draw(panel: Axes, bars: pd.DataFrame, places: Sequence[float]) -> None:
    style.bars_of_readings(panel, bars, places, bars["quantity"].replace(_SHORT), width=1.3)
