"""Real models, each with one bit flipped: in weights, headers, file names and manifests. `hashbench.verify` finds all.

A flip in a tensor's bytes is found in that tensor, and any other in its file.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf_files import Tensor, gguf_file
from gguf_files import header as gguf_header
from kernels_here import available
from profiles import examples
from pytorch_files import archive, checkpoint, pickled, tensor
from safetensors.numpy import save_file

import hashbench
from hashbench.cli.main import run
from hashbench.kernels import Bytes, Kernel
from hashbench.kernels.hashlib_cpu import HashlibCpu
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

    def report(self) -> Report:
        """The comparison of the model as it is now."""
        return hashbench.verify(self.path, self.manifest, kernel=self.kernel)

    def holders(self, file: str) -> dict[int, str]:
        """The name of the entry that has each byte of a file, by the byte's offset."""
        found = dict.fromkeys(range((self.path / file if self.path.is_dir() else self.path).stat().st_size), file)
        for entry in self.manifest.tensors:
            if entry.file == file and entry.offset is not None:
                found |= dict.fromkeys(range(entry.offset, entry.offset + entry.nbytes), entry.name)
        return found

    def check_is_good(self) -> None:
        report = self.report()
        assert report.ok, str(report)

    def check_found(self, where: object) -> None:
        assert not self.report().ok, f"the bit at {where} was flipped, and nothing is found"

    def check_only_differs(self, name: str, where: object) -> None:
        report = self.report()
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


def test_every_third_byte_of_every_file_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    check_folder(tmp_path, lambda byte: [] if byte % 3 else [8 * byte + byte // 3 % 8])


@pytest.mark.thorough
def test_every_bit_of_every_file_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    check_folder(tmp_path, lambda byte: range(8 * byte, 8 * byte + 8))


def write_folder(folder: Path) -> None:
    """Shards with their index, a component, PyTorch and GGUF files, and files that are not weights."""
    shards = {"1.safetensors": ["a", "empty"], "2.safetensors": ["blocks.0.ä", "scale"]}
    for shard, names in shards.items():
        save_file({name: SMALL[name] for name in names}, folder / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    contents = {
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        "config.json": b"{}",
        ".hidden/ä.bin": weights(70, "file").tobytes(),
        "empty.txt": b"",
        "model.gguf": gguf_file(gguf_header([Tensor("g", (4,), 0)]), weights(16, "g").tobytes()),
        "extra.pt": archive(checkpoint(pickled(t=tensor(shape=(2, 2), stride=(1, 2))))),
    }
    (folder / ".hidden").mkdir()
    (folder / "unet").mkdir()
    save_file({"z": SMALL["z"]}, folder / "unet" / "model.safetensors")
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def check_folder(folder: Path, bits_in: Callable[[int], Iterable[int]]) -> None:
    model = Model(folder)
    assert {tensor.name for tensor in model.manifest.tensors} == {
        *("a", "empty", "blocks.0.ä", "scale", "unet/z", "model.gguf/g", "extra.pt/t")
    }
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(model.manifest.files) == 9
    for path in files:
        name = path.relative_to(folder).as_posix()
        holders = model.holders(name)
        for byte in range(path.stat().st_size):
            for bit in bits_in(byte):
                with flipped(path, bit):
                    model.check_only_differs(holders[byte], bit)
    for path in (folder / "1.safetensors", folder / "config.json", folder / ".hidden"):
        check_names(path, model)
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
    holders = model.holders(path.name)
    with_bytes = {entry.name for entry in model.manifest.tensors if entry.nbytes}
    assert set(holders.values()) == {path.name, *with_bytes} - {"model/a"}  # which is tied
    for bit in random.Random(SEED).sample(bits_of(path), samples(150)):
        with flipped(path, bit):
            report = model.report()
            tied = {"model/a", "model/tied"}
            name = holders[bit // 8]
            assert set(report.differs) == (tied if name in tied else {name}), f"bit {bit}"
    model.check_is_good()


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
    with flipped(path, 8 * path.read_bytes().index(b'"blocks.0') + 8):
        assert verify() == (1, "differs: model.safetensors: other bytes outside its tensors\n", "")
    with flipped(manifest, 7):
        code, output, errors = verify()
        assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert verify()[0] == 0
