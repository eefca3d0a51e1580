"""The digests of other tools through every kernel: pieces, streams, salts, and many files at once."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from boundaries import painted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stock_formats import reference

from hashbench.hashing.block_digests import BlockDigester
from hashbench.hashing.salted import Salted
from hashbench.hashing.sources import ChangedWhileReadError, FileParts, FileRange, Source, Stream
from hashbench.kernels import Kernel
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.bittorrent import BitTorrentV2
from hashbench.merkle.digest_format import DigestError, DigestFormat
from hashbench.merkle.s3 import S3
from hashbench.merkle.unixfs import UnixFs
from hashbench.merkle.verity import DmVerity, FsVerity

SALT = b"fifteen bytes.."


def hashlib_kernel(algorithm: str = "sha256") -> HashlibCpu:
    return HashlibCpu(HashlibCpu.devices()[0], algorithm)


def formats_of(algorithm: str) -> list[DigestFormat]:
    if algorithm == "sha384":
        return [DmVerity(1024, b"", "sha384"), DmVerity(1024, SALT, "sha384")]
    return [
        FsVerity(1024),
        FsVerity(1024, SALT),
        DmVerity(1024),
        DmVerity(1024, SALT),
        BitTorrentV2(),
        UnixFs(1024, 8),
    ]


PIECE = 1 << 20
"""Bytes of a piece of 1024 blocks, so that some nodes are hashed on the device: more than `_FEW` of them."""

LENGTHS = [0, 1, 1023, 1024, 1025, 33 * 1024, PIECE, 2 * PIECE + 5]


def test_every_kernel_makes_the_digests_of_the_reference(usual_kernel: Kernel) -> None:
    for digest_format in formats_of(usual_kernel.algorithm.name):
        digester = BlockDigester(usual_kernel, digest_format, PIECE)
        sources: list[Source] = []
        expected = []
        for nbytes in LENGTHS:
            if isinstance(digest_format, DmVerity):
                nbytes = -(-max(nbytes, 1) // 1024) * 1024
            data = painted(max(nbytes, 1) if isinstance(digest_format, BitTorrentV2) else nbytes)
            sources += [data, Stream(BytesIO(data.data))]
            expected += [reference(digest_format, data.tobytes())] * 2
        assert digester.digests(sources) == expected
        assert [digester.digests([source])[0] for source in sources[::2]] == expected[::2]


@pytest.mark.algorithms("sha256")  # which the formats have whose nodes are plain digests
def test_nodes_are_hashed_on_the_device(usual_kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    prepare = usual_kernel.prepare

    def counting(*arguments: object) -> object:
        calls.append(arguments[2])
        return prepare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(usual_kernel, "prepare", counting)
    data = painted(PIECE)
    assert BlockDigester(usual_kernel, FsVerity(1024), PIECE).digests([data]) == [
        reference(FsVerity(1024), data.tobytes())
    ]
    assert calls == [1024, 1024]
    calls.clear()
    data = painted(16 << 20)
    assert BlockDigester(usual_kernel, BitTorrentV2()).digests([data]) == [reference(BitTorrentV2(), data.tobytes())]
    assert calls == [16384, 64, 64] or calls == [16384]  # a device with little memory has smaller pieces


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    st.sampled_from([FsVerity(1024), FsVerity(1024, b"x"), DmVerity(1024, b"abc"), UnixFs(1024, 8)]),
    st.lists(st.integers(1, 5000), min_size=1, max_size=6),
    st.sampled_from([1024, 2048, 1 << 20]),
)
def test_many_files_at_once(tmp_path: Path, digest_format: DigestFormat, lengths: list[int], piece_size: int) -> None:
    sources: list[Source] = []
    expected = []
    for number, nbytes in enumerate(lengths):
        if isinstance(digest_format, DmVerity):
            nbytes = -(-nbytes // 1024) * 1024
        path = tmp_path / str(number)
        data = painted(nbytes, number).tobytes()
        path.write_bytes(data)
        sources.append(FileRange(path, 0, nbytes, path.stat()))
        expected.append(reference(digest_format, data))
    assert BlockDigester(hashlib_kernel(), digest_format, piece_size).digests(sources) == expected


def test_progress_ends_with_everything(tmp_path: Path) -> None:
    seen = []
    BlockDigester(hashlib_kernel(), FsVerity(), 8192).digests([painted(20000)], lambda *now: seen.append(now))
    assert seen[0] == (0, 20000)
    assert seen[-1] == (20000, 20000)


def test_what_has_no_digest_is_refused_before_it_is_read(tmp_path: Path) -> None:
    missing = FileRange(tmp_path / "missing", 0, 4097)
    with pytest.raises(DigestError, match="does not cover"):
        BlockDigester(hashlib_kernel(), DmVerity()).digests([missing])


def test_a_stream_that_has_no_digest() -> None:
    class Unsized(BytesIO):
        """A stream of unknown length."""

    with pytest.raises(DigestError, match="does not cover the last 1 of 4097 bytes"):
        BlockDigester(hashlib_kernel(), DmVerity()).digests([Stream(Unsized(bytes(4097)))])
    with pytest.raises(DigestError, match="does not cover the last 1 of 4097 bytes"):
        BlockDigester(hashlib_kernel(), DmVerity(salt=b"x")).digests([Stream(Unsized(bytes(4097)))])


@pytest.mark.parametrize("salt", [b"", b"salt"])
def test_a_file_that_changed_is_refused(tmp_path: Path, salt: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    before = path.stat()
    os.truncate(path, 4999)
    with pytest.raises(ChangedWhileReadError, match="shrank"):
        BlockDigester(hashlib_kernel(), FsVerity(salt=salt)).digests([FileRange(path, 0, 5000, before)])


def test_parts_of_files_have_no_salt(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    for part in (FileParts(path, ((0, 5000),)), FileRange(path, 1, 4999), FileRange(path, 0, 4999)):
        with pytest.raises(TypeError, match="parts of a file"):
            BlockDigester(hashlib_kernel(), FsVerity(salt=b"x")).digests([part])


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="fs-verity needs sha256, not sha384"):
        BlockDigester(hashlib_kernel("sha384"), FsVerity())


def test_blocks_that_no_stage_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="the largest is 268435456 bytes"):
        BlockDigester(hashlib_kernel(), S3(512 << 20))


def test_salts_stand_before_every_block() -> None:
    stream = Salted(Stream(BytesIO(b"abcde")), b"--", 2)
    host = np.full(12, 0xFF, np.uint8)
    assert stream.fill(host.data[:9]) == 8
    assert host[:8].tobytes() == b"--ab--cd"
    assert stream.fill(host.data) == 4
    assert host[:4].tobytes() == b"--e\0"
    assert stream.unsalted == 5
    assert stream.fill(host.data) == 0


@pytest.mark.thorough
def test_a_graph_of_two_levels() -> None:
    """More than 1024 leaves of 1 MiB; what ipfs-car 3.1 printed for 1 GiB and one byte of zeros."""

    class Zeros(BytesIO):
        left = (1 << 30) + 1

        def readinto(self, host: memoryview) -> int:  # type: ignore[override]
            count = min(len(host), self.left)
            host[:count] = bytes(count)
            self.left -= count
            return count

    found = BlockDigester(hashlib_kernel(), UnixFs()).digests([Stream(Zeros())])
    assert found == ["bafybeigx4uyebjbq65346xh6cjrt6yshbdudzudhnqecwbzvymslxj7gje"]
