"""Other programs that hash: run with a timeout, and with their digests checked against hashlib before timing."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from hashbench.bench.experiment import Skip
from hashbench.bench.readings import Reading
from hashbench.experiments.storage import StorageUnavailable
from hashbench.kernels import Device

ASK_SECONDS = 30.0
"""Time for a program to answer a question, and to start and end around a measurement."""

SLOWEST = 20e6
"""Least bytes per second of a program that hashes files. A slower one is assumed to hang."""

Outcomes = Iterator[Reading | Skip]


class PeerError(Exception):
    """A program is missing or gave no number. The message says why, on one line."""


@dataclass(frozen=True)
class FileHasher:
    """A program about to hash a file or a folder.

    Attributes:
        subject: the subject of its reading.
        source: the program and its version.
        digests: hashes once, and returns the hexadecimal digest of each file of the folder by its name; "." is the file
            itself.
    """

    subject: str
    source: str
    digests: Callable[[], Mapping[str, str]]


def or_skip(what: str, readings: Iterator[Reading]) -> Outcomes:
    """`readings`, and a skip if the program is missing or gave no number, or there is no room for its files."""
    try:
        yield from readings
    except (PeerError, StorageUnavailable) as error:
        yield Skip(what, str(error))


def throughput(subject: str, algorithm: str, device: Device, rates: Sequence[float], **columns: Any) -> Reading:
    """The reading of a program's throughput.

    Args:
        subject: the program's name.
        algorithm: "sha256" or "sha384".
        device: where it hashed.
        rates: bytes per second of each run.
        columns: other columns of the reading, by name.
    """
    return Reading.of(
        [1e-9 * rate for rate in rates],
        device,
        subject=subject,
        quantity="throughput",
        unit="GB/s",
        algorithm=algorithm,
        **columns,
    )


def processes_phrase(count: int) -> str:
    """A number of processes, in words."""
    return "1 process" if count == 1 else f"{count} processes"


def rates_of(hasher: FileHasher, expected: Mapping[str, str], nbytes: int, runs: int) -> list[float]:
    """Times a program, after a first run whose digests are checked.

    Args:
        hasher: the program.
        expected: the right digests.
        nbytes: bytes that it hashes.
        runs: number of timed runs.

    Returns:
        The bytes per second of each run, by the wall clock.

    Raises:
        PeerError: the program failed, or its digests are wrong.
    """
    try:
        found = hasher.digests()  # the first run warms up too
    except PeerError:
        raise
    except Exception as error:  # another version of a package may raise anything
        raise PeerError(f"{hasher.source} failed: {type(error).__name__}: {error}") from error
    if found != expected:
        raise PeerError(f"the digests of {hasher.source} differ from hashlib's, so it was not measured")
    rates = []
    for _ in range(runs):
        begin = perf_counter()
        hasher.digests()
        rates.append(nbytes / (perf_counter() - begin))
    return rates


# Programs ------------------------------------------------------------------------------------------------------------


def program_output(arguments: Sequence[str], timeout: float, accepted: Collection[int] = (0,)) -> str:
    """Runs a program, without a shell and in a session of its own.

    Args:
        arguments: the program, which is searched for on the path, and its arguments.
        timeout: seconds after which it is killed, with the processes that it started.
        accepted: exit codes that mean success.

    Returns:
        What it printed on standard output.

    Raises:
        PeerError: it is not installed, timed out, or exited with another code.
    """
    name = arguments[0]
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise PeerError(f"{name} is not installed") from None
    except OSError as error:
        raise PeerError(f"{name} cannot be started: {error.strerror}") from None
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException as error:  # a keyboard interrupt too, which does not reach the other session
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise PeerError(f"{name} timed out after {timeout:g} s") from None
            raise
    if process.returncode not in accepted:
        said = [line.strip() for line in (errors + output).splitlines() if line.strip()]
        raise PeerError(f"{name} failed with exit code {process.returncode}: {said[0] if said else 'no output'}")
    return output


def first_line(arguments: Sequence[str]) -> str:
    """The first line that a program prints on standard output.

    Raises:
        PeerError: as for `program_output`.
    """
    return program_output(arguments, ASK_SECONDS).strip().partition("\n")[0].strip()


def openssl_version() -> str:
    """The program openssl and its version.

    Raises:
        PeerError: as for `program_output`.
    """
    return " ".join(first_line(["openssl", "version"]).split()[:2])


# Hashers of files ----------------------------------------------------------------------------------------------------


def file_digest(path: Path, algorithm: str) -> str:
    """A file's digest by hashlib, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def hashlib_on(path: Path, algorithm: str) -> FileHasher:
    """Prepares hashlib to hash a file."""
    source = f"hashlib, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"
    return FileHasher("hashlib", source, lambda: {".": file_digest(path, algorithm)})


def coreutils_on(path: Path, algorithm: str) -> FileHasher:
    """Prepares coreutils' program for `algorithm` to hash a file.

    Raises:
        PeerError: as for `program_output`.
    """
    name = f"{algorithm}sum"
    source = first_line([name, "--version"])
    timeout = ASK_SECONDS + path.stat().st_size / SLOWEST
    return FileHasher(name, source, lambda: {".": program_output([name, str(path)], timeout).partition(" ")[0]})


def openssl_on(folder: Path, algorithm: str, processes: int) -> FileHasher:
    """Prepares OpenSSL's program to hash the files of a folder, with an equal share for each of several processes.

    Raises:
        PeerError: as for `program_output`.
    """
    files = sorted(folder.iterdir())
    timeout = ASK_SECONDS + sum(file.stat().st_size for file in files) / SLOWEST
    shares = [share for share in (files[i::processes] for i in range(processes)) if share]
    commands = [["openssl", "dgst", f"-{algorithm}", "-r", *map(str, share)] for share in shares]

    def digests() -> dict[str, str]:
        with ThreadPoolExecutor(len(commands)) as pool:
            outputs = list(pool.map(lambda command: program_output(command, timeout), commands))
        # A line is "<digest> *<path>".
        lines = [line.split(" *", 1) for output in outputs for line in output.splitlines()]
        return {Path(path).name: digest for digest, path in lines}

    return FileHasher("OpenSSL", openssl_version(), digests)


def model_signing_on(path: Path, algorithm: str) -> FileHasher:
    """Prepares model-signing, with its default settings, to hash a file or the files of a folder.

    Raises:
        PeerError: it is not installed, or does not support `algorithm`.
    """
    if algorithm != "sha256":
        raise PeerError(f"model-signing does not support {algorithm}")
    try:
        hashing: Any = import_module("model_signing.hashing")
    except ImportError as error:
        raise PeerError(f"model-signing cannot be imported ({error}): pip install 'hashbench[peers]'") from None
    config = hashing.Config()

    def digests() -> dict[str, str]:
        found = config.hash(path).resource_descriptors()
        return {descriptor.identifier: descriptor.digest.digest_hex for descriptor in found}

    return FileHasher("model-signing", f"model-signing {version('model-signing')}", digests)
