"""Real checkpoints, each with one bit flipped: in weights, names, shapes and manifests. `hashbench.verify` finds all.

Found means that the model no longer opens, or that the comparison names what differs. What a file holds beside its
model, such as the metadata of a safetensors file or the padding of an archive, is no part of the manifest: the files
here have as little of it as their formats allow, and where a flip hits it, the model must be the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernels_here import available
from profiles import examples
from pytorch_files import our_tensors
from safetensors.numpy import save_file

import hashbench
from hashbench.cli.main import run
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, Bytes, Kernel
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.model.manifest import ManifestError, parse_manifest
from hashbench.model.report import Report
from hashbench.model.safetensors_header import read_header

CHUNK_SIZE = 64
SEED = 20_26


def weights(nbytes: int, name: str) -> Bytes:
    return np.frombuffer(hashlib.shake_128(name.encode()).digest(nbytes), np.uint8)


SMALL: dict[str, npt.NDArray[Any]] = {
    "a": weights(2 * 65, "a").view(np.float16).reshape(5, 13),
    "blocks.0.ä": weights(48, "b").view(np.float32).reshape(3, 4),
    "empty": np.zeros((0, 7), np.int8),
    "scale": weights(8, "scale").view(np.float64).reshape(()),
    "z": weights(64, "z"),
}
"""More than two chunks, less than one, none, and exactly one."""


def reference(algorithm: str = "sha256") -> HashlibCpu:
    return HashlibCpu(HashlibCpu.devices()[0], algorithm)


class Model:
    """A model, its manifest from before any flip, and the kernel that verifies it."""

    def __init__(self, path: Path, kernel: Kernel | None = None, chunk_size: int = CHUNK_SIZE) -> None:
        self.path = path
        self.kernel = kernel or reference()
        self.manifest = hashbench.manifest(
            path, algorithm=self.kernel.algorithm.name, chunk_size=chunk_size, kernel=self.kernel
        )
        self.check_is_good()

    def report(self) -> Report | None:
        """The comparison of the model as it is now; None if it is not valid."""
        try:
            return hashbench.verify(self.path, self.manifest, kernel=self.kernel)
        except VerificationError:
            return None

    def check_is_good(self) -> None:
        report = self.report()
        assert report
        assert report.ok, str(report)

    def check_found(self, where: object) -> None:
        report = self.report()
        assert report is None or not report.ok, f"the bit at {where} was flipped, and nothing is found"

    def check_only_differs(self, name: str, where: object) -> None:
        report = self.report()
        assert report, f"the bit at {where} was flipped, and the model does not open"
        assert (report.differs, report.missing, report.extra) == ((name,), (), ()), f"bit {where}: {report}"


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """A file with one bit flipped, as it was before in the end."""
    with path.open("r+b", buffering=0) as file:

        def flip() -> None:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))

        flip()
        try:
            yield
        finally:
            flip()


def bits_of(path: Path) -> range:
    return range(8 * path.stat().st_size)


def places(sizes: Iterable[tuple[int, int]], chunk_size: int, count: int) -> list[int]:
    """Bits to flip in ranges of bytes, each given by its begin and end: at the edges of ranges and of their chunks the
    first and the last of the byte on either side, and `count` others at random.
    """
    ranges = [range(begin, end) for begin, end in sizes if begin < end]
    edges = {edge for r in ranges for edge in (*r[::chunk_size], *r[chunk_size - 1 :: chunk_size], r[-1])}
    chosen = random.Random(SEED)
    drawn = {chosen.choice(chosen.choices(ranges, [len(r) for r in ranges])[0]) for _ in range(count)}
    return sorted({8 * byte + bit for byte in edges for bit in (0, 7)} | {8 * b + chosen.randrange(8) for b in drawn})


def samples(count: int) -> int:
    """How many samples to take: `count` in the short form."""
    return examples(count).max_examples


# Exhaustively


def test_every_bit_of_a_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(SMALL, path)
    model = Model(path)
    holders = {tensor.offset + i: tensor.name for tensor in read_header(path).tensors for i in range(tensor.nbytes)}
    assert len(holders) == sum(tensor.nbytes for tensor in SMALL.values())
    for bit in bits_of(path):
        with flipped(path, bit):
            if bit // 8 in holders:
                model.check_only_differs(holders[bit // 8], bit)
            else:
                model.check_found(bit)
    model.check_is_good()


def test_every_bit_of_an_index_and_its_shards_names(tmp_path: Path) -> None:
    shards = {"1.safetensors": ["a", "empty"], "2.safetensors": ["blocks.0.ä", "scale", "z"]}
    for shard, names in shards.items():
        save_file({name: SMALL[name] for name in names}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index.write_text(json.dumps({"weight_map": weight_map}, ensure_ascii=False))  # an escape has two ways to be written
    model = Model(tmp_path)
    for bit in bits_of(index):
        with flipped(index, bit):
            model.check_found(bit)
    for shard in shards:
        check_names(tmp_path / shard, model)
    model.check_is_good()


def test_every_bit_of_every_file_in_a_folder(tmp_path: Path) -> None:
    contents = {"config.json": b'{"layers":2}', ".hidden/ä.bin": weights(130, "file").tobytes(), "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    model = Model(tmp_path)
    for name in contents:
        for bit in bits_of(tmp_path / name):
            with flipped(tmp_path / name, bit):
                model.check_only_differs(name, bit)
        check_names(tmp_path / name, model)
    check_names(tmp_path / ".hidden", model)
    model.check_is_good()


def check_names(path: Path, model: Model) -> None:
    """Renames a file by each bit of its name that can be flipped."""
    name = path.name.encode()
    for bit in range(8 * len(name)):
        byte = name[bit // 8] ^ 1 << bit % 8
        other = name[: bit // 8] + bytes([byte]) + name[bit // 8 + 1 :]
        if byte in b"\0/":
            continue
        renamed = Path(path.parent, other.decode(errors="surrogateescape"))
        assert not renamed.exists()
        path.rename(renamed)
        model.check_found(other)
        renamed.rename(path)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_bit_of_a_manifest(algorithm: str, tmp_path: Path) -> None:
    """The root authenticates everything but the chunk size, and another chunk size gives other roots."""
    path = tmp_path / "model.safetensors"
    save_file(SMALL, path)
    manifest = Model(path, reference(algorithm), 1024).manifest
    text = manifest.text()
    chunk_sizes = []
    for bit in range(8 * len(text)):
        place, shift = divmod(bit, 8)
        try:
            found = parse_manifest(text[:place] + bytes([text[place] ^ 1 << shift]) + text[place + 1 :])
        except ManifestError:
            continue
        assert found.entries == manifest.entries
        chunk_sizes.append(found.chunk_size)
    assert chunk_sizes == [9024]


def test_a_flip_in_the_chunk_size_of_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"t": weights(5000, "t")}, path)
    model = Model(path, chunk_size=1024)
    text = model.manifest.text().replace(b":1024,", b":9024,")
    model.manifest = parse_manifest(text)
    model.check_only_differs("t", "chunk size")


# By samples


def test_many_bits_of_larger_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    sizes = {"a": 4096, "b": 40_000, "c": 1, "d": 12_288, "e": 4097, "f": 4095}
    save_file({name: weights(size, name) for name, size in sizes.items()}, path)
    model = Model(path, chunk_size=4096)
    tensors = read_header(path).tensors
    ranges = {tensor.name: (tensor.offset, tensor.offset + tensor.nbytes) for tensor in tensors}
    chosen = places(ranges.values(), 4096, samples(300))
    assert len(chosen) > samples(300) * 5 // 6
    for bit in chosen:
        holder = next(name for name, (begin, end) in ranges.items() if begin <= bit // 8 < end)
        with flipped(path, bit):
            model.check_only_differs(holder, bit)
    model.check_is_good()


def check_bits_of_weights(kernel: Kernel, folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(SMALL | {"large": weights(3000, "large")}, path)
    model = Model(path, kernel)
    assert model.manifest == Model(path, reference(kernel.algorithm.name)).manifest
    ranges = {tensor.name: (tensor.offset, tensor.offset + tensor.nbytes) for tensor in read_header(path).tensors}
    for bit in places(ranges.values(), 1024, samples(12)):
        holder = next(name for name, (begin, end) in ranges.items() if begin <= bit // 8 < end)
        with flipped(path, bit):
            model.check_only_differs(holder, bit)
    for bit in random.Random(SEED).sample(range(8 * min(begin for begin, _ in ranges.values())), samples(8)):
        with flipped(path, bit):
            model.check_found(bit)
    model.check_is_good()


def test_bits_of_weights_by_usual_kernels(usual_kernel: Kernel, tmp_path: Path) -> None:
    check_bits_of_weights(usual_kernel, tmp_path)


def test_bits_of_weights_by_the_cuda_source(tmp_path: Path) -> None:
    kernels = available("cuda-source-on-host")
    if not kernels:
        pytest.skip("a C++ compiler is needed to try the CUDA source on the host")
    check_bits_of_weights(kernels[0], tmp_path)


@pytest.mark.thorough
def test_bits_of_weights_by_every_kernel(any_kernel: Kernel, tmp_path: Path) -> None:
    check_bits_of_weights(any_kernel, tmp_path)


def test_bits_of_a_pytorch_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install hashbench[torch]")
    path = tmp_path / "model.pt"
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in SMALL.items()}
    torch.save(
        {"model": tensors | {"tied": tensors["a"], "large": torch.from_numpy(weights(5000, "large").copy())}}, path
    )
    model = Model(path)
    good = contents_of(path)
    data = path.read_bytes()
    for name, content in good.items():
        if not content:
            continue
        begin = data.index(content)
        assert data.count(content) == 1
        holders = tuple(sorted(other for other in good if good[other] == content))
        for bit in places([(begin, begin + len(content))], 10 * CHUNK_SIZE, samples(4)):
            with flipped(path, bit):
                report = model.report()
                assert report
                assert (report.differs, report.missing, report.extra) == (holders, (), ()), f"bit {bit} of {name}"
    same = 0
    for bit in random.Random(SEED).sample(bits_of(path), samples(150)):
        with flipped(path, bit):
            report = model.report()
            if report and report.ok:
                assert contents_of(path) == good, f"the bit at {bit} was flipped, and nothing is found"
                same += 1
    assert same < samples(140)
    model.check_is_good()


def contents_of(path: Path) -> dict[str, bytes]:
    """The bytes of a PyTorch checkpoint's tensors, by name."""
    return {name: content for name, (_, _, content) in our_tensors(path).items()}


def test_the_command_finds_what_was_flipped(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    path, manifest = tmp_path / "model.safetensors", tmp_path / "manifest.json"
    save_file(SMALL, path)

    def verify() -> tuple[int, str, str]:
        code = run(["verify", str(path), str(manifest), "--kernel", "hashlib"])
        output, errors = capsysbinary.readouterr()
        return code, output.decode(), errors.decode()

    assert run(["manifest", str(path), "-o", str(manifest), "--kernel", "hashlib"]) == 0
    capsysbinary.readouterr()
    assert verify()[0] == 0
    with flipped(path, bits_of(path)[-1]):
        code, output, errors = verify()
        assert (code, len(output.splitlines()), errors) == (1, 1, "")
        assert output.startswith("differs: ")
    name = 8 * path.read_bytes().index(b'"blocks.0') + 8
    with flipped(path, name):
        code, output, errors = verify()
        assert (code, errors) == (1, "")
        assert [line.split(": ")[:2] for line in output.splitlines()] == [
            ["missing", "blocks.0.ä"],
            ["extra", "clocks.0.ä"],
        ]
    for file, exit_code in ((path, 1), (manifest, 2)):
        with flipped(file, 7):
            code, output, errors = verify()
            assert (code, output, len(errors.splitlines())) == (exit_code, "", 1)
    assert verify()[0] == 0
