"""The digest formats of other tools: what the tools print, for plain digests that arrive in any portions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import pytest
from boundaries import painted
from hypothesis import given
from hypothesis import strategies as st
from stock_formats import FORMATS, Printed, cut, printed, reference

from hashbench.merkle.bittorrent import BitTorrentV2
from hashbench.merkle.digest_format import DigestError, DigestFormat, FixedArityTree
from hashbench.merkle.s3 import MAX_PARTS, S3
from hashbench.merkle.unixfs import UnixFs
from hashbench.merkle.verity import DmVerity, FsVerity


def leaves(digest_format: DigestFormat, data: bytes) -> list[bytes]:
    """The digests of the blocks."""
    blocks = digest_format.blocks
    parts = cut(data, blocks.size)
    if blocks.padded:
        parts = [part.ljust(blocks.size, b"\0") for part in parts]
    return [hashlib.new(blocks.algorithm, blocks.salt + part).digest() for part in parts]


def folded(digest_format: DigestFormat, data: bytes, cuts: Sequence[int] = ()) -> str:
    """The digest, from portions of the blocks' digests that end at `cuts`."""
    nodes = leaves(digest_format, data)
    fold = digest_format.fold()
    for start, stop in pairwise([0, *sorted(min(one, len(nodes)) for one in cuts), len(nodes)]):
        fold.add(b"".join(nodes[start:stop]))
    return fold.digest(len(data))


@pytest.mark.parametrize("expected", printed(), ids=str)
def test_the_digests_are_those_that_the_tools_print(expected: Printed) -> None:
    data = painted(expected.nbytes).tobytes()
    assert folded(expected.format, data) == expected.digest
    assert reference(expected.format, data) == expected.digest


def test_every_format_has_digests_by_its_tool() -> None:
    assert {expected.name for expected in printed()} == FORMATS.keys()


SALTS = st.sampled_from([b"", b"\0", b"salt", bytes(range(32))])
SMALL_FORMATS = st.one_of(
    st.builds(FsVerity, st.just(1024), SALTS),
    st.builds(DmVerity, st.just(1024), SALTS, st.sampled_from(["sha256", "sha384"])),
    st.builds(UnixFs, st.just(64), st.sampled_from([2, 3, 8])),
)


@given(SMALL_FORMATS, st.integers(0, 40 * 1024), st.lists(st.integers(0, 700), max_size=4))
def test_portions_make_no_difference(digest_format: DigestFormat, nbytes: int, cuts: list[int]) -> None:
    if isinstance(digest_format, DmVerity):
        nbytes = (nbytes // 1024 + 1) * 1024
    data = painted(nbytes).tobytes()
    assert folded(digest_format, data, cuts) == reference(digest_format, data)


@given(st.integers(1, 70), st.integers(0, 16383), st.lists(st.integers(0, 70), max_size=4))
def test_blocks_of_a_torrent(blocks: int, short: int, cuts: list[int]) -> None:
    data = painted(blocks * 16384 - short).tobytes()
    assert folded(BitTorrentV2(), data, cuts) == reference(BitTorrentV2(), data)


@given(
    arity=st.sampled_from([2, 3, 32]),
    groups=st.integers(1, 40),
    rest=st.integers(0, 50),
    levels=st.integers(1, 3),
    fills=st.booleans(),
)
def test_nodes_of_a_higher_level_stand_for_those_below(
    arity: int, groups: int, rest: int, levels: int, fills: bool
) -> None:
    count = groups * arity**levels % 5000 // arity**levels * arity**levels
    nodes = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count + rest)]
    plain, mixed = (FixedArityTree("sha256", arity, fills_with_nodes=fills) for _ in range(2))
    plain.add(b"".join(nodes))
    above = nodes[:count]
    for _ in range(levels):
        above = [hashlib.sha256(b"".join(above[at : at + arity])).digest() for at in range(0, len(above), arity)]
    mixed.add(b"".join(above), levels)
    mixed.add(b"".join(nodes[count:]))
    assert mixed.root() == plain.root()


def test_a_tree_keeps_a_group_of_each_level() -> None:
    tree = FixedArityTree("sha256", 2)
    for _ in range(1 << 12):
        tree.add(bytes(32))
    assert sum(map(len, tree._levels)) <= 12 * 2 * 32


def test_no_bytes() -> None:
    assert S3().fold().digest(0) == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert UnixFs().fold().digest(0) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    for without in (BitTorrentV2(), DmVerity()):
        with pytest.raises(DigestError, match="empty"):
            without.fold().digest(0)
        with pytest.raises(DigestError, match="empty"):
            without.check_size(0)


def test_dm_verity_covers_whole_blocks_alone() -> None:
    DmVerity().check_size(8192)
    for nbytes in (1, 4095, 4097):
        with pytest.raises(DigestError, match=rf"does not cover the last {nbytes % 4096} of {nbytes} bytes"):
            DmVerity().check_size(nbytes)
        with pytest.raises(DigestError, match="does not cover"):
            DmVerity().fold().digest(nbytes)


def test_an_object_has_at_most_10_000_parts() -> None:
    whole = S3(5 << 20)
    whole.check_size(MAX_PARTS * (5 << 20))
    with pytest.raises(DigestError, match="10,001 parts: up to 10,000"):
        whole.check_size(MAX_PARTS * (5 << 20) + 1)
    fold = whole.fold()
    fold.add(bytes(32 * MAX_PARTS))
    with pytest.raises(DigestError, match="10,001 parts"):
        fold.add(bytes(32))


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (FsVerity, {"block_size": 512}, "1KiB to 64KiB"),
        (FsVerity, {"block_size": 4095}, "a power of two"),
        (FsVerity, {"block_size": 1 << 17}, "1KiB to 64KiB"),
        (FsVerity, {"salt": bytes(33)}, "up to 32 bytes"),
        (DmVerity, {"salt": bytes(257)}, "up to 256 bytes"),
        (DmVerity, {"block_size": 0}, "a power of two"),
        (DmVerity, {"algorithm": "sha512"}, "unknown algorithm"),
        (S3, {"part_size": (5 << 20) - 1}, "5MiB to 5GiB"),
        (S3, {"part_size": (5 << 30) + 1}, "5MiB to 5GiB"),
    ],
)
def test_parameters_that_the_tools_refuse(build: type[DigestFormat], options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build(**options)


def test_lines_are_those_of_the_tools() -> None:
    assert FsVerity().line("sha256:00", "a b") == "sha256:00 a b"
    assert UnixFs().line("bafk", "a b") == "bafk  a b"
