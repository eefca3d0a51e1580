"""Libraries that hash a buffer in memory: SHA-2 over its chunks in a loop in C, other hash functions over all of it.

The loops are compiled at run time by the machine's C compiler. What is missing is skipped, with the reason.
"""

from __future__ import annotations

import ctypes
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.resources import as_file, files
from itertools import chain, product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE
from hashbench.experiments.host_tree import processes_of
from hashbench.experiments.programs import (
    ASK_SECONDS,
    Outcomes,
    PeerError,
    or_skip,
    program_output,
    throughput,
)
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Bytes, Device


@dataclass(frozen=True)
class Loop:
    """A library with a loop over chunks in C.

    Attributes:
        subject: the subject of its readings.
        file: the loop's text.
        library: the linker's name of the library.
        package: what to install if it cannot be compiled.
    """

    subject: str
    file: str
    library: str
    package: str


LOOPS = (
    Loop("OpenSSL in C", "openssl_loop.c", ":libcrypto.so.3", "OpenSSL 3"),
    Loop("Intel IPsec-MB", "ipsec_mb_loop.c", "IPSec_MB", "Debian's libipsec-mb-dev"),
)


@dataclass(frozen=True)
class Other:
    """A package for another hash function.

    Attributes:
        subject: the subject of its readings.
        package: its name on PyPI.
        of_nothing: the digest of no bytes, in hexadecimal, which checks the package.
        has_threads: whether it can hash one message on several threads.
        note: what it is, for readers.
    """

    subject: str
    package: str
    of_nothing: str
    has_threads: bool
    note: str


OTHERS = (
    Other(
        "BLAKE3",
        "blake3",
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        True,
        "Another hash function, not SHA-2: a tree of its own over chunks of 1 KiB, with 7 rounds where BLAKE2s has 10.",
    ),
    Other(
        "XXH3",
        "xxhash",
        "99aa06d3014798d86001c324468d497f",
        False,
        "Not a cryptographic hash function: it finds accidents, and nobody who wants to deceive.",
    ),
)


def of_a_buffer(nbytes: int, runs: int, processor: Sequence[Device]) -> Outcomes:
    """Readings of all libraries over random bytes.

    Args:
        nbytes: how many, a multiple of the chunk size.
        runs: timed runs of each.
        processor: hashlib's devices: one thread; then, if there are several cores, a thread per core.
    """
    data = np.frombuffer(np.random.default_rng(1).bytes(nbytes), np.uint8)
    loops = (
        or_skip(f"{loop.subject}, {algorithm}", _of_loop(loop, algorithm, data, runs, processor))
        for loop, algorithm in product(LOOPS, ALGORITHMS)
    )
    others = (or_skip(other.subject, _of_other(other, data, runs, processor)) for other in OTHERS)
    return chain.from_iterable(chain(loops, others))


def _of_loop(loop: Loop, algorithm: str, data: Bytes, runs: int, processor: Sequence[Device]) -> Iterator[Reading]:
    library = _compiled(loop)
    size = ALGORITHMS[algorithm].digest_size
    chunks = (data[i : i + CHUNK_SIZE].data for i in range(0, data.size, CHUNK_SIZE))
    expected = b"".join(hashlib.new(algorithm, chunk).digest() for chunk in chunks)
    digests = np.zeros(len(expected), np.uint8)

    def part(begin: int, end: int) -> None:
        from_chunk, to_digest = data.ctypes.data + begin * CHUNK_SIZE, digests.ctypes.data + begin * size
        if not library.hash_chunks(algorithm.encode(), from_chunk, end - begin, CHUNK_SIZE, to_digest):
            raise PeerError(f"{loop.subject} failed")

    for device in processor:
        threads = processes_of(device)
        cuts = [data.size // CHUNK_SIZE * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:

            def run(pool: ThreadPoolExecutor = pool, cuts: Sequence[int] = cuts) -> None:
                for _ in pool.map(part, cuts[:-1], cuts[1:]):
                    pass

            digests[:] = 0
            run()
            if digests.tobytes() != expected:
                raise PeerError(f"the digests of {loop.subject} differ from hashlib's, so it was not measured")
            rates = _rates(run, data.size, runs)
        yield throughput(
            loop.subject,
            algorithm,
            device,
            rates,
            source=library.library_version().decode(),
            workers=_threads(threads),
            conditions=f"{format_size(data.size)} in chunks of {format_size(CHUNK_SIZE)}",
        )


def _compiled(loop: Loop) -> Any:
    """The compiled loop.

    Raises:
        PeerError: it does not compile here.
    """
    with tempfile.TemporaryDirectory() as folder, as_file(files("hashbench.experiments") / loop.file) as text:
        path = Path(folder) / "loop.so"
        command = ["cc", "-O2", "-shared", "-fPIC", str(text), "-o", str(path), f"-l{loop.library}"]
        try:
            program_output(command, ASK_SECONDS)
        except PeerError as error:
            raise PeerError(
                f"its loop in C cannot be compiled ({error}): it needs a C compiler and {loop.package}"
            ) from None
        library = ctypes.CDLL(str(path))  # which stays loaded without its file
    library.hash_chunks.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    library.library_version.restype = ctypes.c_char_p
    return library


def _of_other(other: Other, data: Bytes, runs: int, processor: Sequence[Device]) -> Iterator[Reading]:
    try:
        package: Any = import_module(other.package)
    except ImportError as error:
        raise PeerError(f"{other.package} cannot be imported ({error}): pip install 'hashbench[peers]'") from None
    of_bytes: Callable[..., Any] = package.blake3 if other.package == "blake3" else package.xxh3_128
    source = f"{other.package} {version(other.package)}"
    if of_bytes(b"").hexdigest() != other.of_nothing:
        raise PeerError(f"the digests of {source} are wrong, so it was not measured")
    for device in processor if other.has_threads else processor[:1]:
        threads = processes_of(device)
        run = partial(of_bytes, data, max_threads=threads) if other.has_threads else partial(of_bytes, data)
        run()
        yield throughput(
            other.subject,
            "",
            device,
            _rates(lambda run=run: run().digest(), data.size, runs),  # type: ignore[misc]
            source=source,
            workers=_threads(threads),
            conditions=f"one message of {format_size(data.size)}",
            note=other.note,
        )


def _rates(run: Callable[[], object], nbytes: int, runs: int) -> list[float]:
    """The bytes per second of each of several runs, by the wall clock."""
    rates = []
    for _ in range(runs):
        begin = perf_counter()
        run()
        rates.append(nbytes / (perf_counter() - begin))
    return rates


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
