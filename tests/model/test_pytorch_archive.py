"""PyTorch's zip archives: those that real writers make are read; `tests/hostile` has those that are refused."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from pathlib import Path

import pytest
from pytorch_files import LIMIT, Member, archive, checkpoint, pickled, write_sparse

from hashbench.model.pytorch_archive import ForeignFile, Record, read_archive, read_at


def read(path: Path) -> dict[str, Record]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_archive(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def contents(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {name: data[record.offset : record.offset + record.nbytes] for name, record in read(path).items()}


def check_as_zipfile_reads_it(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        wanted = {info.filename.partition("/")[2]: file.read(info) for info in file.infolist()}
    assert contents(path) == wanted


@pytest.mark.covers("torch")
@pytest.mark.parametrize("name", ["model.pt", "é.bin", "a b.c.pth", "archive"])
@pytest.mark.parametrize("alignment", [64, 4096])
@pytest.mark.parametrize("checksums", [True, False])
def test_archives_of_torch_save(tmp_path: Path, name: str, alignment: int, checksums: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch.utils.serialization import config

    path = tmp_path / name
    content = {"a": torch.arange(5), "empty": torch.empty(0), "b": torch.ones(100, 100)}
    with config.patch({"save.storage_alignment": alignment, "save.compute_crc32": checksums}):
        torch.save(content, path)
    if checksums:
        check_as_zipfile_reads_it(path)
    records = read(path)
    assert records["data/2"].nbytes == 40_000
    assert all(record.offset % alignment == 0 for key, record in records.items() if key.startswith("data/"))


@pytest.mark.covers("torch")
def test_an_archive_that_torch_save_streamed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    stream = io.BytesIO()
    torch.save({"a": torch.arange(5)}, stream)
    path = tmp_path / "model.pt"
    path.write_bytes(stream.getvalue())
    check_as_zipfile_reads_it(path)


def test_an_archive_of_the_standard_library(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as file:
        for member in checkpoint(pickled()):
            assert isinstance(member.data, bytes)
            file.writestr(f"model/{member.name}", member.data)
    check_as_zipfile_reads_it(path)


def test_an_archive_of_the_first_versions(tmp_path: Path) -> None:
    """They named storages by addresses, and had no byte order."""
    path = tmp_path / "model.pt"
    path.write_bytes(
        archive([Member("data.pkl", b"x"), Member("data/94205421836784", b"y" * 100), Member("version", b"3\n")])
    )
    assert contents(path) == {"data.pkl": b"x", "data/94205421836784": b"y" * 100, "version": b"3\n"}
    check_as_zipfile_reads_it(path)


def test_what_the_helper_writes_is_what_pytorch_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "model.pt"
    torch.save({"a": torch.arange(5), "empty": torch.empty(0), "b": torch.ones(100, 100)}, path)
    members = [Member(name, data) for name, data in contents(path).items()]
    written = archive(members, folder="model")
    assert written == path.read_bytes()


SIZE = LIMIT + 11


@pytest.mark.covers("torch")
def test_sizes_and_offsets_of_more_than_32_bits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "model.pt"
    content = {"large": torch.empty(4), "small": torch.arange(3, dtype=torch.uint8)}
    torch.save(content, path)
    members = [Member(name, data) for name, data in contents(path).items()]
    small = next(member for member in members if member.name == "data/0")
    large = {"data/0": SIZE, "data/1": SIZE - 1}
    sparse = tmp_path / "large.pt"
    write_sparse(sparse, [Member(member.name, large.get(member.name, member.data)) for member in members])
    assert small.data
    records = read(sparse)
    assert (records["data/0"].nbytes, records["data/1"].nbytes) == (SIZE, SIZE - 1)
    assert min(records["data/1"].header, records["version"].header) > LIMIT
    reader = torch._C.PyTorchFileReader(os.fspath(sparse))
    for name, record in records.items():
        assert reader.get_record_offset(name) == record.offset
    with sparse.open("rb") as file:
        assert read_at(file.fileno(), records["version"].offset, 2) == b"3\n"


@pytest.mark.thorough
def test_more_records_than_16_bits_count(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(
        archive([Member("data.pkl", b"x"), *(Member(f"data/{key}", b"", align=1) for key in range(1 << 16))])
    )
    records = read(path)
    assert len(records) == (1 << 16) + 1
    with zipfile.ZipFile(path) as file:
        assert len(file.infolist()) == len(records)


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"\x80\2}.", b"hello world" * 10], ids=["empty", "short", "pickle", "text"]
)
def test_other_files_are_recognised(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(ForeignFile, match="it does not begin as a zip archive"):
        read(path)


@pytest.mark.covers("torch")
def test_torchscript_is_recognised(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to be removed from PyTorch, and its files stay
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(ForeignFile, match="it is a TorchScript archive"):
        read(path)


def test_another_zip_archive_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("word/document.xml", "x" * 1000)
    with pytest.raises(ForeignFile, match=r"it is a zip archive, but does not have one folder with a data\.pkl"):
        read(path)
    path.write_bytes(archive([]))
    with pytest.raises(ForeignFile, match="does not begin as a zip archive"):
        read(path)
