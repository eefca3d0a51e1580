"""The reference tree against a second construction, published roots, and its own inclusion proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.kernels import ALGORITHMS
from hashbench.merkle import rfc9162 as merkle

algorithms = st.sampled_from(list(ALGORITHMS))
chunk_lists = st.lists(st.binary(max_size=80), max_size=70)

# The test tree of the reference implementation of Certificate Transparency, which libraries in many languages use.
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_PATHS = {
    0: (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    5: (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
}


def paired(nodes: Sequence[bytes], algorithm: str) -> bytes:
    """The root, level by level: pairs of neighbours are hashed, an odd last node is promoted unchanged."""
    new = getattr(hashlib, algorithm)
    while len(nodes) > 1:
        pairs = [new(b"\x01" + b"".join(nodes[i : i + 2])).digest() for i in range(0, len(nodes) - 1, 2)]
        nodes = pairs + list(nodes[len(pairs) * 2 :])
    return nodes[0] if nodes else new().digest()


@given(chunk_lists, algorithms)
def test_the_recursion_equals_pairing_level_by_level(chunks: list[bytes], algorithm: str) -> None:
    leaves = [getattr(hashlib, algorithm)(b"\x00" + chunk).digest() for chunk in chunks]
    assert merkle.merkle_tree_hash(chunks, algorithm) == paired(leaves, algorithm)


@given(chunk_lists, st.integers(0, 4), algorithms)
def test_roots_of_power_of_two_pieces_fold_to_the_root(chunks: list[bytes], log2: int, algorithm: str) -> None:
    pieces = [chunks[start : start + (1 << log2)] for start in range(0, len(chunks), 1 << log2)]
    roots = [merkle.merkle_tree_hash(piece, algorithm) for piece in pieces]
    assert merkle.root_of(roots, algorithm) == merkle.merkle_tree_hash(chunks, algorithm)


@pytest.mark.parametrize("size", range(len(CT_ROOTS)))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert merkle.merkle_tree_hash(CT_LEAVES[:size], "sha256").hex() == CT_ROOTS[size]


@pytest.mark.parametrize("index", CT_PATHS)
def test_inclusion_proofs_are_those_of_certificate_transparency(index: int) -> None:
    path = merkle.inclusion_proof(CT_LEAVES, index, "sha256")
    assert [node.hex() for node in path] == list(CT_PATHS[index])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_proof_of_every_leaf_verifies(algorithm: str) -> None:
    for size in range(1, 71):
        chunks = [bytes([i]) * 3 for i in range(size)]
        root = merkle.merkle_tree_hash(chunks, algorithm)
        for index, chunk in enumerate(chunks):
            path = merkle.inclusion_proof(chunks, index, algorithm)
            leaf = merkle.leaf_hash(chunk, algorithm)
            assert merkle.verify_inclusion(leaf, index, size, path, root, algorithm)


def _one_bit_off(data: bytes, bit: int) -> bytes:
    place, bit = divmod(bit % (8 * len(data)), 8)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=70, unique=True), st.data(), algorithms)
def test_a_proof_with_anything_changed_fails(chunks: list[bytes], data: st.DataObject, algorithm: str) -> None:
    size = len(chunks)
    index = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, 8 * 48 - 1))
    root = merkle.merkle_tree_hash(chunks, algorithm)
    path = merkle.inclusion_proof(chunks, index, algorithm)
    leaf = merkle.leaf_hash(chunks[index], algorithm)

    def verifies(leaf: bytes = leaf, index: int = index, path: list[bytes] = path, root: bytes = root) -> bool:
        return merkle.verify_inclusion(leaf, index, size, path, root, algorithm)

    assert verifies()
    assert not verifies(leaf=_one_bit_off(leaf, bit))
    assert not verifies(leaf=merkle.leaf_hash(_one_bit_off(chunks[index] + b"\0", bit), algorithm))
    assert not verifies(root=_one_bit_off(root, bit))
    assert not verifies(path=[*path, root])
    for place, node in enumerate(path):
        assert not verifies(path=[*path[:place], _one_bit_off(node, bit), *path[place + 1 :]])
        assert not verifies(path=path[:place] + path[place + 1 :])
    for other in range(-1, size + 1):
        assert other == index or not verifies(index=other)


@given(st.integers(1, 70), st.data(), algorithms)
def test_a_proof_fails_for_a_tree_of_another_depth(size: int, data: st.DataObject, algorithm: str) -> None:
    index = data.draw(st.integers(0, size - 1))
    chunks = [bytes([i]) for i in range(size)]
    path = merkle.inclusion_proof(chunks, index, algorithm)
    leaf, root = merkle.leaf_hash(chunks[index], algorithm), merkle.merkle_tree_hash(chunks, algorithm)
    # A path determines the depth of its leaf. Some other sizes have the same leaf at the same depth; these never do.
    for other in (0, index, 2 * size + 1, 1 << 40):
        assert not merkle.verify_inclusion(leaf, index, other, path, root, algorithm)


def test_there_is_no_proof_of_a_leaf_that_does_not_exist() -> None:
    for size, index in ((0, 0), (3, 3), (3, -1)):
        with pytest.raises(ValueError, match=f"leaf {index} does not exist: the tree has {size} leaves"):
            merkle.inclusion_proof([b""] * size, index, "sha256")


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown algorithm 'md5': accepted are sha256, sha384"):
        merkle.merkle_tree_hash([], "md5")


@given(st.binary(max_size=1000), st.sampled_from([64, 128, 192]))
def test_chunks_are_the_data_in_order(data: bytes, chunk_size: int) -> None:
    chunks = merkle.chunks_of(data, chunk_size)
    assert b"".join(chunks) == data
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= chunk_size for chunk in chunks)


@given(counts=st.lists(st.integers(0, 40), max_size=6), algorithm=algorithms)
def test_roots_of_several_trees(counts: list[int], algorithm: str) -> None:
    trees = [[merkle.leaf_hash(bytes([tree, i]), algorithm) for i in range(n)] for tree, n in enumerate(counts)]
    expected = [merkle.root_of(nodes, algorithm) for nodes in trees]
    assert merkle.roots_of([b"".join(nodes) for nodes in trees], algorithm) == expected
