"""Micro-benchmarks of the execution pipes and the memory of an NVIDIA GPU, through CuPy: the limits of SHA-2 kernels.

Rates are operations per clock and multiprocessor, by the multiprocessor's own clock counter, so they are independent of
the frequency. The GPU's timer, read together with that counter, gives the frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from hashbench.kernels.contract import Buffer, Device, Unavailable
from hashbench.kernels.cupy_cuda import CupyCuda, built

BLOCK = 512
BLOCKS = 2
"""Threads per block, and blocks per multiprocessor: eight warps per scheduler, which fit on every architecture."""

CHAINS = 8
"""Independent chains per thread, more than needed to hide an instruction's latency behind seven other warps."""

LOOP = 384
"""Operations in the body of a loop, divisible into equal parts for up to four operations side by side.

The loop's own three instructions are less than 1 % of that. The body is 6 KiB of code, which fits into the instruction
cache."""

LOADS = 8
"""Loads of 16 bytes in flight per thread: 128 KiB per multiprocessor, more than its share of the memory's bandwidth
times the latency."""

WARP = 32

MULTIPLIER = 0x9E3779B1
"""The factor of the chains, a kernel argument. It is odd, so that products are zero only if the other factor is."""


Spans = npt.NDArray[np.uint64]
"""Shape (warps, 5): for each warp its multiprocessor, the multiprocessor's clock at the start and at the end of the
loop, and the GPU's timer at both, in nanoseconds."""


@dataclass(frozen=True)
class Pipe:
    """A benchmark of one operation, or of several in equal parts.

    Attributes:
        name: the operations, with the instruction names of NVIDIA's disassembler if there is one for each.
        step: one step of a chain, with the macros of `microbenchmarks.cu`.
        operations: operations per step.
        note: an explanation of the rate for readers.
    """

    name: str
    step: str
    operations: int = 1
    note: str = ""

    @property
    def function(self) -> str:
        """The name of its device function."""
        return "pipe_" + "".join(c.lower() if c.isalnum() else "_" for c in self.name)

    @property
    def steps(self) -> int:
        """Steps of each chain in the body of the loop."""
        return LOOP // (CHAINS * self.operations)


_X, _W = "(x[i], x[next])", "(w[i], w[next])"
_LOP3, _SHF, _IMAD = "LOP3_CONSTANT(x[i])", "SHF_CONSTANT(x[i])", "IMAD_CONSTANT(x[i])"
_DFMA = "DFMA_CONSTANT(d[i])"
_ONE_REGISTER = "together, each with one register to read and a constant"
_TWICE_SHF = "SHF(x[i], x[next]); SHF(x[i], x[third])"

PIPES = {
    pipe.name: pipe
    for pipe in (
        Pipe("LOP3", f"LOP3{_X}", note="logic of three inputs"),
        Pipe("SHF", f"SHF{_X}", note="funnel shift, which a rotation is"),
        Pipe("PRMT", f"PRMT{_X}", note="byte permutation"),
        Pipe("IADD3", "IADD3(x[i], x[next], x[third])", note="sum of three"),
        Pipe("ADD", f"ADD{_X}", note="sum of two: the compiler spreads it over the pipes"),
        Pipe("ADD64", f"ADD64{_W}", note="64-bit sum of two, as the compiler writes it: two instructions up to sm_100"),
        Pipe("IMAD", f"IMAD{_X}", note="multiply-add"),
        Pipe("IMAD.HI", f"IMAD_HI{_X}", note="high word of the product"),
        Pipe("IMAD.WIDE", f"IMAD_WIDE{_W}", note="both words of the product"),
        Pipe("IDP", f"IDP{_X}", note="dot product of two halves of a word and two bytes"),
        Pipe("BREV", "BREV(x[i]); LOP3_CONSTANT(x[i])", note="bit reversal, beside as many logic operations"),
        Pipe("DMUL", "DMUL(d[i])", note="double-precision product, rounded toward zero, as a shift"),
        Pipe("DFMA", "DFMA(d[i])", note="double-precision multiply-add, rounded toward zero"),
        Pipe("LOP3+SHF", f"LOP3{_X}; SHF{_X}", 2, note="both together"),
        Pipe("LOP3+IADD3", f"LOP3{_X}; IADD3(x[i], x[next], x[third])", 2, note="both together"),
        Pipe("LOP3+IMAD", f"{_LOP3}; {_IMAD}", 2, note=f"both {_ONE_REGISTER}"),
        Pipe(
            "LOP3+IMAD of registers",
            f"LOP3{_X}; IMAD{_X}",
            2,
            note="both together, each with two or three registers to read: as fast as those are delivered, not issued",
        ),
        Pipe("LOP3+ADD", f"{_LOP3}; ADD_CONSTANT(x[i])", 2, note=f"both {_ONE_REGISTER}"),
        Pipe("SHF+IMAD", f"{_SHF}; {_IMAD}", 2, note=f"both {_ONE_REGISTER}"),
        Pipe("LOP3+IDP", f"{_LOP3}; IDP_CONSTANT(x[i])", 2, note=f"both {_ONE_REGISTER}"),
        Pipe("SHF+SHF+IDP", f"{_TWICE_SHF}; IDP{_X}", 3, note="two shifts to one dot product"),
        Pipe("SHF+DFMA", f"{_SHF}; {_DFMA}", 2, note=f"both {_ONE_REGISTER}"),
        Pipe("IMAD+IMAD.WIDE", f"IMAD{_X}; IMAD_WIDE{_W}", 2, note="both together"),
        # One product per shift would show nothing: it takes the FMA pipe as long as two shifts take the ALU pipe.
        Pipe("SHF+SHF+IMAD.WIDE", f"{_TWICE_SHF}; IMAD_WIDE{_W}", 3, note="two shifts to one product"),
        Pipe("SHF+SHF+IMAD.HI", f"{_TWICE_SHF}; IMAD_HI{_X}", 3, note="two shifts to one product"),
        Pipe("LOP3+IMAD+DFMA", f"{_LOP3}; {_IMAD}; {_DFMA}", 3, note=f"all three {_ONE_REGISTER}"),
    )
}
"""By name."""


@dataclass(frozen=True)
class Run:
    """One launch of the benchmark of a pipe.

    Attributes:
        rate: operations per clock, the median of the multiprocessors.
        megahertz: the clock frequency during the run, the median of the warps.
        seconds: the duration of the launch by events, including a few microseconds to start and to end.
    """

    rate: float
    megahertz: float
    seconds: float


def source(pipes: Iterable[Pipe] = tuple(PIPES.values()), steps: str = "") -> str:
    """The program text for `pipes`, whose steps may use macros that `steps` defines."""
    macros = {"BLOCK": BLOCK, "BLOCKS": BLOCKS, "CHAINS": CHAINS, "LOADS": LOADS}
    lines = [f"#define {name} {value}\n" for name, value in macros.items()]
    lines += ['#line 1 "microbenchmarks.cu"\n']
    lines += [(files("hashbench.limits") / "microbenchmarks.cu").read_text()]
    lines += [steps, *(f"PIPE({pipe.function}, {pipe.steps}, {pipe.step})\n" for pipe in pipes)]
    return "".join(lines)


def rate(spans: Spans, operations: int) -> float:
    """The median rate of the multiprocessors, in operations per clock.

    Args:
        spans: the spans of all warps.
        operations: operations per warp, over all its threads.
    """
    rates = []
    for multiprocessor in np.unique(spans[:, 0]):
        mine = spans[spans[:, 0] == multiprocessor]
        rates.append(len(mine) * operations / int(mine[:, 2].max() - mine[:, 1].min()))
    return float(np.median(rates))


def megahertz(spans: Spans) -> float:
    """The median clock frequency of the warps.

    The GPU's timer is read around the loop, so that neither the launch nor waiting for a multiprocessor counts.
    """
    return float(np.median(1e3 * (spans[:, 2] - spans[:, 1]) / (spans[:, 4] - spans[:, 3])))


class Microbenchmarks:
    """The micro-benchmarks on one GPU.

    Args:
        device: an available device of CuPy.
        program: the program text, what `source` returns.

    Raises:
        Unavailable: it is not an NVIDIA GPU.
    """

    def __init__(self, device: Device, program: str | None = None) -> None:
        if device.vendor != "NVIDIA":
            raise Unavailable(f"{device.name} is not NVIDIA's: the micro-benchmarks measure NVIDIA's instructions")
        self._kernel = CupyCuda(device)
        self._cupy: Any = self._kernel.cupy
        self._device = self._kernel.cuda_device
        with self._device:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._module = built(self._cupy, program or source())
        self.multiprocessors = int(self._device.attributes["MultiProcessorCount"])

    def free_memory(self) -> int:
        """The number of bytes that `memory` can still allocate."""
        return self._kernel.free_memory()

    def memory(self, nbytes: int) -> Buffer:
        """Random bytes to copy and to read.

        Raises:
            OutOfDeviceMemory: the device is out of memory.
        """
        return self._kernel.random(nbytes, 1)

    def run(self, pipe: Pipe, turns: int) -> Run:
        """Launches `pipe` on every multiprocessor, with `turns` iterations of the loop per thread."""
        blocks = BLOCKS * self.multiprocessors
        with self._device, self._stream:
            written = self._cupy.empty((blocks * BLOCK // WARP, 5), np.uint64)
            sink = self._cupy.empty(blocks * BLOCK, np.uint32)
            kernel = self._module.get_function(pipe.function)
            arguments = (np.uint32(turns), np.uint32(MULTIPLIER), written, sink)
            seconds = self._seconds(lambda: kernel((blocks,), (BLOCK,), arguments))
            spans = written.get()
        return Run(rate(spans, turns * LOOP * WARP), megahertz(spans), seconds)

    def copy(self, memory: Buffer) -> float:
        """The seconds to copy one half of `memory` to the other."""
        half, runtime = memory.nbytes // 2, self._cupy.cuda.runtime
        arguments = (memory.address + half, memory.address, half, runtime.memcpyDeviceToDevice, self._stream.ptr)
        with self._device, self._stream:
            return self._seconds(lambda: runtime.memcpyAsync(*arguments))

    def read(self, memory: Buffer) -> float:
        """The seconds to read `memory`, 16 bytes at a time."""
        blocks = BLOCKS * self.multiprocessors
        with self._device, self._stream:
            sink = self._cupy.empty(blocks * BLOCK, np.uint32)
            kernel = self._module.get_function("read_all")
            arguments = (np.uint64(memory.address), np.uint64(memory.nbytes // 16), sink)
            return self._seconds(lambda: kernel((blocks,), (BLOCK,), arguments))

    def _seconds(self, launch: Callable[[], Any]) -> float:
        """The seconds of what `launch` enqueues on the current stream, by events."""
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        start.record(self._stream)
        launch()
        end.record(self._stream)
        end.synchronize()
        return 1e-3 * float(self._cupy.cuda.get_elapsed_time(start, end))
