"""Attacks by one kind of hash that passes for another: of a file, a frame, a node, an entry, or a model."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from command_line import in_process
from hypothesis import given
from hypothesis import strategies as st
from model_folders import safetensors_file, trust, write

import hashbench
from hashbench.merkle.rfc9162 import chunks_of, inclusion_proof, leaf_hash, merkle_tree_hash
from hashbench.model import canonical_json
from hashbench.model.manifest import Entry, FileEntry, Header, Manifest, TensorEntry, read_manifest
from hashbench.model.proofs import Inclusion, NotProvenError, Proof, ProofError, parse_proof, prove

DATA = bytes(range(256)) * 40
FILES = {"model.safetensors": safetensors_file({"a": DATA, "b": b"b"}), "config.json": b"{}", "x": DATA}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = write(tmp_path_factory.mktemp("domains") / "model", FILES)
    return read_manifest(trust(folder, "--chunk-size", "64").path)


def test_no_file_has_the_root_of_a_manifest(manifest: Manifest, tmp_path: Path) -> None:
    """A file of its header, records, nodes or text, which an attacker can write, hashed as one chunk or as many."""
    header = canonical_json.dumps(manifest.header.fields())
    contents = [header, b"\x02" + header, b"".join(manifest.records), manifest.text(), manifest.text()[:-1]]
    contents += [manifest.root, manifest.header.entries, b"", *manifest.records]
    path = tmp_path / "file"
    for content in contents:
        for chunk_size in (64, 4096):
            path.write_bytes(content)
            root = hashbench.hash_file(path, chunk_size=chunk_size, kernel="hashlib")
            assert root != manifest.root
            made = hashbench.manifest(path, chunk_size=chunk_size, kernel="hashlib") if content else manifest
            assert made.root != root
            assert made.header.entries != root or content == b""


def test_the_root_of_a_file_is_not_that_of_its_manifest(tmp_path: Path) -> None:
    """So the trusted root of a file's bytes trusts no manifest, and the other way round."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    manifest = trust(path)
    hashed = in_process("hash", "--kernel", "hashlib", path).stdout.split()[0].decode()
    assert hashed != manifest.root
    assert hashed == read_manifest(manifest.path).entries[0].root.hex()
    assert replace(manifest, root=hashed).verdict_on(path).code == 1


def test_neither_nodes_nor_entries_pass_for_the_root(manifest: Manifest, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", FILES)
    trusted = trust(folder, "--chunk-size", "64")
    for root in [manifest.header.entries, *(entry.root for entry in manifest.entries)]:
        assert replace(trusted, root=root.hex()).verdict_on(folder).code == 1
        with pytest.raises(NotProvenError):
            prove(manifest, "a").check_record(root)


# Records say one thing

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
paths = names.filter(lambda name: not {"/", "\0"} & set(name) and name not in (".", ".."))
roots = st.binary(min_size=32, max_size=32)
small = st.integers(0, 3)
entries = st.one_of(
    st.builds(
        lambda name, dtype, n, root, place: TensorEntry(name, dtype, (n,), n, root, *place),
        names,
        st.sampled_from(["U8", "I8"]),
        small,
        roots,
        st.sampled_from([(None, None), ("f", None), ("f", 0), ("f", 1)]),
    ),
    st.builds(FileEntry, paths, small, roots, st.one_of(st.none(), small)),
)


@given(entries, entries)
def test_records_are_injective(one: Entry, other: Entry) -> None:
    same = type(one) is type(other) and one.fields() == other.fields() and one.nbytes == other.nbytes
    assert (one.record() == other.record()) == same
    assert json.loads(one.record()) == one.fields()


@given(st.lists(names, min_size=2, max_size=6, unique=True), roots)
def test_names_never_run_into_each_other(given_names: list[str], root: bytes) -> None:
    """Whichever way the same text is cut into names, the root is another."""
    cuts = [given_names, ["".join(given_names)], ["/".join(given_names)], ['","'.join(given_names)]]
    found = {
        Manifest("sha256", 64, tuple(TensorEntry(name, "U8", (1,), 1, root) for name in names)).root for names in cuts
    }
    assert len(found) == len(cuts)


def test_every_field_of_the_header_is_under_the_root() -> None:
    header = Header("sha256", 64, (), 1, bytes(32))
    others = [
        replace(header, chunk_size=128),
        replace(header, exclusions=("a",)),
        replace(header, exclusions=("a", "b")),
        replace(header, exclusions=('a","b',)),
        replace(header, count=2),
        replace(header, entries=bytes(31) + b"1"),
    ]
    assert len({one.root for one in (header, *others)}) == 7


# Proofs


def chunk_proof(manifest: Manifest, name: str, index: int, data: bytes) -> Proof:
    proof = prove(manifest, name)
    chunks = chunks_of(data, manifest.chunk_size)
    path = inclusion_proof(chunks, index, manifest.algorithm)
    return replace(proof, chunk=Inclusion(index, len(chunks), tuple(path)))


def _check(proof: Proof, root: bytes, leaf: bytes) -> None:
    proof.check_record(root)
    proof.check_bytes(leaf)


def test_a_proof_of_one_kind_never_passes_for_another(manifest: Manifest) -> None:
    proof = chunk_proof(manifest, "a", 3, DATA)
    leaf = leaf_hash(DATA[192:256], "sha256")
    _check(proof, manifest.root, leaf)
    assert proof.chunk
    # the chunk's path as a record's, and the record's as a chunk's
    for forged in (
        replace(proof, inclusion=proof.chunk),
        replace(proof, chunk=proof.inclusion),
        replace(proof, inclusion=replace(proof.inclusion, path=(*proof.chunk.path, *proof.inclusion.path))),
    ):
        with pytest.raises(NotProvenError):
            _check(forged, manifest.root, leaf)
    # a record as a chunk, a node as a chunk, a chunk as all of the tensor
    for data in (leaf_hash(proof.entry.record(), "sha256"), proof.chunk.path[0], proof.entry.root, manifest.root):
        with pytest.raises(NotProvenError):
            proof.check_bytes(data)
    with pytest.raises(NotProvenError):
        replace(proof, chunk=None).check_bytes(leaf)


def test_two_leaves_in_one_never_pass_for_a_node(manifest: Manifest) -> None:
    """The bytes of two leaf hashes, as a chunk, have the prefix of a leaf."""
    leaves = [leaf_hash(DATA[place : place + 64], "sha256") for place in range(0, len(DATA), 64)]
    joined = b"".join(b"".join(pair) for pair in pairwise(leaves[:3]))
    assert merkle_tree_hash([joined[:64]], "sha256") != merkle_tree_hash([DATA[:64], DATA[64:128]], "sha256")


def test_a_proof_says_of_what_it_is(manifest: Manifest, tmp_path: Path) -> None:
    """A record of a tensor as that of a file with the same name, root and size is another record."""
    proof = prove(manifest, "a")
    assert isinstance(proof.entry, TensorEntry)
    for entry in (
        FileEntry("a", proof.entry.nbytes, proof.entry.root),
        replace(proof.entry, dtype="I8"),
        replace(proof.entry, shape=(2, len(DATA) // 2)),
        replace(proof.entry, file=None, offset=None),
        replace(proof.entry, offset=(proof.entry.offset or 0) + 1),
    ):
        with pytest.raises(NotProvenError, match="does not lead to the root"):
            replace(proof, entry=entry).check_record(manifest.root)


def test_proofs_and_manifests_are_no_models_of_each_other(manifest: Manifest) -> None:
    text = prove(manifest, "a").text()
    with pytest.raises(ProofError):
        parse_proof(manifest.text())
    for forged in (text.replace(b'"version":2', b'"version":1'), text + b"\n", b" " + text, text[:-1]):
        with pytest.raises(ProofError):
            parse_proof(forged)
