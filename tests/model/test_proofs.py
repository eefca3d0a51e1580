"""Inclusion proofs: valid ones verify with only hashlib and JSON, and invalid ones are detected."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from hashbench.bench.inventories import MODELS
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.sources import ChangedWhileReadError, FileRange
from hashbench.kernels import ALGORITHMS, Bytes
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle import rfc9162 as merkle
from hashbench.model.manifest import Entry, FileEntry, Manifest, TensorEntry
from hashbench.model.proofs import (
    MAX_SIZE,
    Inclusion,
    NotProvenError,
    Proof,
    ProofError,
    bytes_in,
    parse_proof,
    prove,
    prove_chunk,
    read_proof,
)

algorithms = st.sampled_from(list(ALGORITHMS))
chunk_sizes = st.sampled_from([64, 128, 192])
contents = st.dictionaries(st.text(max_size=8), st.binary(max_size=1000), min_size=1, max_size=9)
DATA = bytes(range(251)) * 4


def root(data: bytes, chunk_size: int = 64, algorithm: str = "sha256") -> bytes:
    return merkle.merkle_tree_hash(merkle.chunks_of(data, chunk_size), algorithm)


def leaves(data: bytes, chunk_size: int = 64, algorithm: str = "sha256") -> Bytes:
    hashes = [merkle.leaf_hash(chunk, algorithm) for chunk in merkle.chunks_of(data, chunk_size)]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, ALGORITHMS[algorithm].digest_size)


def model(tensors: dict[str, bytes], chunk_size: int = 64, algorithm: str = "sha256") -> Manifest:
    """The manifest of tensors of bytes."""
    entries = [
        TensorEntry(name, "U8", (len(data),), len(data), root(data, chunk_size, algorithm))
        for name, data in tensors.items()
    ]
    return Manifest(algorithm, chunk_size, tuple(entries))


def chunk_proof(data: bytes, index: int, chunk_size: int = 64, algorithm: str = "sha256") -> tuple[Proof, bytes]:
    """The proof of a chunk of the tensor "b" among others, and the model's root."""
    manifest = model({"a": b"x", "b": data, "c": b"y" * 999}, chunk_size, algorithm)
    return prove_chunk(prove(manifest, "b"), index, leaves(data, chunk_size, algorithm)), manifest.root


def checks(proof: Proof, model_root: bytes, data: bytes) -> bool:
    """Whether all of a proof is accepted for `data`."""
    try:
        proof.check_record(model_root)
        if len(data) != proof.nbytes:
            return False
        proof.check_bytes(root(data, proof.chunk_size, proof.algorithm))
    except NotProvenError:
        return False
    return True


# A checker that shares no code with the package: it climbs from the leaf by the recursion of RFC 9162 section 2.1.3.1.


def climbed(leaf: bytes, index: int, size: int, path: Sequence[str], algorithm: str) -> bytes:
    if size == 1:
        assert not path
        return leaf
    half = 1
    while 2 * half < size:
        half *= 2
    *below, top = path
    if index < half:
        left, right = climbed(leaf, index, half, below, algorithm), bytes.fromhex(top)
    else:
        left, right = bytes.fromhex(top), climbed(leaf, index - half, size - half, below, algorithm)
    return hashlib.new(algorithm, b"\1" + left + right).digest()


def climb(text: bytes, data: bytes) -> bytes:
    """The model's root that a proof leads to from `data`, those of the tensor or of the chunk."""
    proof = json.loads(text)
    header, record = proof["header"], proof["record"]
    algorithm, chunk_size = header["algorithm"], header["chunk_size"]

    def leaf(message: bytes) -> bytes:
        return hashlib.new(algorithm, b"\0" + message).digest()

    if "chunk" in proof:
        place = proof["chunk"]
        found = climbed(leaf(data), place["index"], place["tree_size"], place["path"], algorithm)
    else:
        found = merkle.root_of([leaf(data[i : i + chunk_size]) for i in range(0, len(data), chunk_size)], algorithm)
    assert found.hex() == record["root"]
    place = proof["inclusion"]
    leaf_of_record = leaf(rfc8785.dumps(record))
    assert place["tree_size"] == header["count"]
    entries = climbed(leaf_of_record, place["index"], place["tree_size"], place["path"], algorithm)
    assert entries.hex() == header["entries"]
    return hashlib.new(algorithm, b"\2" + rfc8785.dumps(header)).digest()


# What is proven


@given(contents, chunk_sizes, algorithms)
def test_every_tensor_is_proven_by_standard_tools(tensors: dict[str, bytes], chunk_size: int, algorithm: str) -> None:
    manifest = model(tensors, chunk_size, algorithm)
    for name, data in tensors.items():
        proof = prove(manifest, name)
        assert climb(proof.text(), data) == manifest.root
        assert parse_proof(proof.text()) == proof
        assert checks(proof, manifest.root, data)


@given(st.binary(min_size=1, max_size=3000), chunk_sizes, algorithms)
def test_every_chunk_is_proven_by_standard_tools(data: bytes, chunk_size: int, algorithm: str) -> None:
    for index, chunk in enumerate(merkle.chunks_of(data, chunk_size)):
        proof, model_root = chunk_proof(data, index, chunk_size, algorithm)
        assert (proof.start, proof.nbytes) == (index * chunk_size, len(chunk))
        assert climb(proof.text(), bytes(chunk)) == model_root
        assert parse_proof(proof.text()) == proof
        assert checks(proof, model_root, bytes(chunk))


@given(tensors=contents, file=st.binary(max_size=300))
def test_a_file_is_proven_like_a_tensor(tensors: dict[str, bytes], file: bytes) -> None:
    entries: list[Entry] = [FileEntry(f"{i}/{len(d)}", len(d), root(d)) for i, d in enumerate(tensors.values())]
    manifest = Manifest("sha256", 64, (*entries, FileEntry("ä.bin", len(file), root(file))))
    proof = prove(manifest, "ä.bin")
    assert climb(proof.text(), file) == manifest.root
    assert parse_proof(proof.text()) == proof


def test_a_file_with_tensors_is_proven_by_its_frame_and_they_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"head" + DATA + b"tail")
    weight = TensorEntry("unet/w", "U8", (len(DATA),), len(DATA), root(DATA), "unet/weights", 4)
    view = TensorEntry("unet/v", "U8", (2, 2), 4, root(b"view"), "unet/weights")
    frame = FileEntry("unet/weights", len(DATA) + 8, root(b"headtail"), 8)
    manifest = Manifest("sha256", 64, (weight, view, frame), (".git",))
    for name, data, named in (
        ("unet/w", DATA, "tensor 'unet/w'"),
        ("unet/v", b"view", "tensor 'unet/v'"),
        ("unet/weights", b"headtail", "frame of 'unet/weights'"),
    ):
        proof = prove(manifest, name)
        assert climb(proof.text(), data) == manifest.root
        assert parse_proof(proof.text()) == proof
        assert proof.named == named
        assert checks(proof, manifest.root, data)
    whole = prove(manifest, "unet/w")
    assert bytes_in(path, whole) == FileRange(path, 4, len(DATA))
    assert bytes_in(path, prove_chunk(whole, 2, leaves(DATA))) == FileRange(path, 132, 64)
    os.truncate(path, len(DATA) + 3)
    with pytest.raises(NotProvenError, match="weights ends before byte 1008, where tensor 'unet/w' does"):
        bytes_in(path, whole)
    with pytest.raises(NotProvenError, match="weights has 1007 bytes, but frame of 'unet/weights' has 8"):
        bytes_in(path, prove(manifest, "unet/weights"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [1, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, (3 << 14) + 5])
def test_a_chunk_of_a_large_tensor_has_the_path_of_the_reference(count: int, algorithm: str) -> None:
    """The leaves are made up: no data are hashed for them."""
    size = ALGORITHMS[algorithm].digest_size
    hashes = np.frombuffer(hashlib.shake_128(b"leaves").digest(count * size), np.uint8).reshape(count, size)
    nodes = [leaf.tobytes() for leaf in hashes]
    entry = TensorEntry("t", "U8", (count * 64,), count * 64, merkle.root_of(nodes, algorithm))
    proof = prove(Manifest(algorithm, 64, (entry,)), "t")
    for index in {0, 1 % count, count // 2, (1 << 14) % count, count - 1}:
        chunk = prove_chunk(proof, index, hashes).chunk
        assert chunk
        assert chunk.leads(nodes[index], entry.root, algorithm)
        assert not chunk.leads(nodes[index - 1] if count > 1 else b"", entry.root, algorithm)


def test_a_proof_in_a_model_of_141_GB_takes_two_kilobytes() -> None:  # noqa: N802
    def fake_root(name: str) -> bytes:
        return hashlib.sha256(name.encode()).digest()

    llama = MODELS["llama-3.1-70b"]
    largest = max(llama.tensors, key=lambda tensor: tensor.nbytes)
    count = largest.nbytes // 4096
    hashes = np.frombuffer(hashlib.shake_128(b"").digest(32 * count), np.uint8).reshape(count, 32)
    roots = {largest.name: merkle.root_of([leaf.tobytes() for leaf in hashes], "sha256")}
    entries = [
        TensorEntry(t.name, t.dtype, t.shape, t.nbytes, roots.get(t.name, fake_root(t.name))) for t in llama.tensors
    ]
    manifest = Manifest("sha256", 4096, tuple(entries))
    proof = prove(manifest, largest.name)
    assert len(proof.text()) < 1200
    proof = prove_chunk(proof, count // 3, hashes)
    assert len(proof.text()) < 2600
    parse_proof(proof.text()).check_record(manifest.root)


# What is not


@given(contents, st.data())
def test_a_proof_holds_for_one_root_and_one_text_alone(tensors: dict[str, bytes], draw: st.DataObject) -> None:
    manifest = model(tensors)
    name = draw.draw(st.sampled_from(sorted(tensors)))
    proof = prove(manifest, name)
    bit = draw.draw(st.integers(0, 255))
    other = (int.from_bytes(manifest.root, "big") ^ 1 << bit).to_bytes(32, "big")
    with pytest.raises(NotProvenError, match=f"does not lead to the root {other.hex()}"):
        proof.check_record(other)
    entry = proof.entry
    assert isinstance(entry, TensorEntry)
    for forged in (
        replace(entry, name=entry.name + "'"),
        replace(entry, dtype="I8"),
        replace(entry, shape=(1, *entry.shape)),
        replace(entry, root=entry.root[1:] + entry.root[:1]),
    ):
        with pytest.raises(NotProvenError):
            replace(proof, entry=forged).check_record(manifest.root)


@given(st.binary(min_size=1, max_size=900), st.data())
def test_other_bytes_are_not_proven(data: bytes, draw: st.DataObject) -> None:
    chunks = merkle.chunks_of(data, 64)
    index = draw.draw(st.integers(0, len(chunks) - 1))
    proof, model_root = chunk_proof(data, index)
    for whole, good in ((replace(proof, chunk=None), data), (proof, bytes(chunks[index]))):
        place, bit = divmod(draw.draw(st.integers(0, 8 * len(good) - 1)), 8)
        flipped = good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
        assert checks(whole, model_root, good)
        assert not checks(whole, model_root, flipped)
        assert not checks(whole, model_root, good[:-1])
        assert not checks(whole, model_root, good + b"\0")


def test_a_node_is_not_taken_for_a_chunk() -> None:
    """Two nodes together are as long as a chunk, but a leaf's hash has another prefix than a node's."""
    data = bytes(128)
    left, right = (merkle.leaf_hash(bytes(64), "sha256") for _ in range(2))
    proof, model_root = chunk_proof(data, 0)
    assert proof.chunk
    forged = replace(proof, chunk=Inclusion(0, 1, ()))
    assert not checks(forged, model_root, left + right)
    with pytest.raises(ProofError, match="its chunk would be one of 1, but there are 2"):
        parse_proof(forged.text())


@settings(max_examples=20)
@given(st.integers(1, 700), st.integers(1, 11).map(lambda n: 64 * n))
def test_no_lie_about_chunk_size_and_place_moves_bytes(nbytes: int, chunk_size: int) -> None:
    """Of every chunk size and place that could be claimed for a true path, only the true ones are accepted."""
    data = hashlib.shake_128(b"distinct").digest(nbytes)
    for index, chunk in enumerate(merkle.chunks_of(data, chunk_size)):
        proof, model_root = chunk_proof(data, index, chunk_size)
        assert proof.chunk
        for claimed in range(64, 832, 64):
            count = -(-nbytes // claimed)
            for place in range(count):
                header = replace(proof.header, chunk_size=claimed)
                lie = replace(proof, header=header, chunk=Inclusion(place, count, proof.chunk.path))
                assert checks(lie, model_root, bytes(chunk)) == (claimed == chunk_size and place == index)


def test_there_is_no_proof_of_what_does_not_exist() -> None:
    manifest = model({"a": DATA, "empty": b""})
    with pytest.raises(ProofError, match="the manifest has no tensor or file 'b'"):
        prove(manifest, "b")
    with pytest.raises(ProofError, match=r"no tensor or file 'empti'; did you mean 'empty'\?"):
        prove(manifest, "empti")
    for index in (-1, 16):
        with pytest.raises(ProofError, match=f"tensor 'a' has no chunk {index}: it has 16, counted from 0"):
            prove_chunk(prove(manifest, "a"), index, leaves(DATA))
    with pytest.raises(ProofError, match="tensor 'empty' has no chunk 0: it has 0"):
        prove_chunk(prove(manifest, "empty"), 0, leaves(b""))


def test_there_is_no_proof_from_other_leaves() -> None:
    proof = prove(model({"a": DATA}), "a")
    flipped = leaves(DATA).copy()
    flipped[-1, 0] ^= 1
    for hashes in (flipped, leaves(DATA)[:-1], leaves(DATA + bytes(64)), leaves(DATA)[::-1], leaves(b"")):
        for index in (0, 15):
            with pytest.raises(NotProvenError, match="the chunks are not those of tensor 'a'"):
                prove_chunk(proof, index, hashes)


# The text of a proof


def edited(change: Callable[[Any], object], chunk: int | None = 3) -> bytes:
    """A proof with changed JSON, in canonical form."""
    proof, _ = chunk_proof(DATA, chunk or 0)
    document = json.loads(proof.text())
    change(document)
    return rfc8785.dumps(document) + b"\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(version=1), "its version is 1; accepted is 2"),
        (lambda p: p.update(version=True), "its version is|schema"),
        (lambda p: p.pop("version"), '"version" is a required property'),
        (lambda p: p.update(more=1), "Additional properties are not allowed"),
        (lambda p: p["header"].update(algorithm="md5"), '"md5" is not one of'),
        (lambda p: p["header"].update(algorithm="sha384"), "its root has 32 bytes, not 48"),
        (lambda p: p["header"].update(chunk_size=65), "65 is not a multiple of 64"),
        (lambda p: p["header"].update(chunk_size=0), "0 is less than the minimum"),
        (lambda p: p["header"].update(chunk_size=128), "its chunk would be one of 16, but there are 8"),
        (lambda p: p["header"].update(count=4), "its record would be one of 3, but there are 4"),
        (lambda p: p["header"].update(entries="0" * 96), "a node does not have the length"),
        (lambda p: p["header"].update(exclusions=["../x"]), "the pattern '../x' is not accepted"),
        (lambda p: p["header"].update(kind="x"), r"schema at \$\.header\.kind"),
        (lambda p: p["header"].update(version=1), r"schema at \$\.header\.version"),
        (lambda p: p["header"].pop("tree"), '"tree" is a required property'),
        (lambda p: p["record"].update(offset=4), "it has an offset but no file"),
        (lambda p: p["record"].update(dtype="X9"), "the dtype 'X9' is unknown"),
        (lambda p: p["record"].update(dtype="F4", shape=[3]), "whole number of bytes"),
        (lambda p: p["record"].update(shape=[2**50, 2**50]), "more than 2\\^60"),
        (lambda p: p["record"].update(shape=[-1]), "-1 is less than the minimum"),
        (lambda p: p["record"].update(root="00"), '"00" does not match'),
        (lambda p: p["record"].update(root=p["record"]["root"].upper()), "does not match"),
        (lambda p: p["record"].update(path="x"), '"size" is a required property'),
        (lambda p: p.update(record={"path": "../x", "root": "0" * 64, "size": 1}), "its path is not relative"),
        (lambda p: p.update(record=[]), r"\[\] is not of type \"object\""),
        (lambda p: p["inclusion"].update(index=3), "leaf 3 is not in a tree of 3"),
        (lambda p: p["inclusion"].update(index=-1), "-1 is less than the minimum"),
        (lambda p: p["inclusion"].update(tree_size=0), "leaf 1 is not in a tree of 0"),
        (lambda p: p["inclusion"].update(path=["0" * 96]), "a node does not have the length"),
        (lambda p: p["chunk"].update(path=["0" * 64] * 64), r"schema at \$\.chunk\.path"),
        (lambda p: p["chunk"].update(tree_size=17), "its chunk would be one of 17, but there are 16"),
        (lambda p: p["chunk"].update(index=16), "leaf 16 is not in a tree of 16"),
        (lambda p: p["chunk"].pop("path"), '"path" is a required property'),
    ],
)
def test_a_proof_that_is_misused_is_refused(change: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ProofError, match=message) as refused:
        parse_proof(edited(change))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nest more than"),
        (b'{"version":2,"version":2}', "occurs twice"),
        (b'{"version":1e3}', "only integers"),
        (b'{"version":NaN}', "only integers"),
        (b" " * (MAX_SIZE + 1), f"more than {MAX_SIZE} bytes"),
        (b"7\n", '7 is not of type "object"'),
        (b"null\n", 'null is not of type "object"'),
    ],
)
def test_what_is_no_proof_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ProofError, match=message):
        parse_proof(text)
    path = tmp_path / "proof.json"
    path.write_bytes(text)
    with pytest.raises(ProofError, match=r"proof\.json is not a valid proof: .*" + message):
        read_proof(path)


def test_a_proof_has_one_text_alone() -> None:
    text = chunk_proof(DATA, 3)[0].text()
    for other in (
        text[:-1],
        text + b"\n",
        b" " + text,
        text.replace(b":", b": ", 1),
        text.replace(b"b", b"\\u0062", 1),
    ):
        with pytest.raises(ProofError):
            parse_proof(other)
    assert parse_proof(text).text() == text


def test_every_bit_of_a_proof_counts() -> None:
    """Each flip is refused, or fails, or leaves what is proven as it was: a tree of another size can have one path."""
    proof, model_root = chunk_proof(DATA, 3)
    chunk = DATA[3 * 64 : 4 * 64]
    text = proof.text()
    accepted = 0
    for bit in range(8 * len(text)):
        place, shift = divmod(bit, 8)
        flipped = text[:place] + bytes([text[place] ^ 1 << shift]) + text[place + 1 :]
        try:
            found = parse_proof(flipped)
        except ProofError:
            continue
        if checks(found, model_root, chunk):
            assert (found.entry, found.start, found.nbytes) == (proof.entry, proof.start, proof.nbytes)
            accepted += 1
    assert accepted < 8  # digits of the number of records


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_no_more(data: bytes) -> None:
    with pytest.raises(ProofError):
        parse_proof(data)


@given(st.data())
def test_any_value_in_any_place_is_refused_or_makes_a_proof(data: st.DataObject) -> None:
    def change(document: Any) -> None:
        inner = document
        while True:
            key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            if not isinstance(inner[key], (dict, list)) or not inner[key] or data.draw(st.booleans()):
                inner[key] = data.draw(json_values)
                return
            inner = inner[key]

    proof, model_root = chunk_proof(DATA, 3)
    document = json.loads(proof.text())
    change(document)
    try:
        found = parse_proof(json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n")
    except ProofError:
        return
    assert found.entry == proof.entry or not checks(found, model_root, DATA[3 * 64 : 4 * 64])


# Where the bytes are


def test_bytes_are_found_by_the_size_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    chunk, _ = chunk_proof(DATA, 15)
    whole = replace(chunk, chunk=None)
    path.write_bytes(DATA)
    assert bytes_in(path, whole) == FileRange(path, 0, len(DATA))
    assert bytes_in(path, chunk) == FileRange(path, 15 * 64, len(DATA) - 15 * 64)
    path.write_bytes(DATA[15 * 64 :])
    assert bytes_in(path, chunk) == FileRange(path, 0, len(DATA) - 15 * 64)


def test_bytes_are_found_in_a_safetensors_file(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "shard.safetensors"
    chunk, _ = chunk_proof(DATA, 2)
    save_file({"a": np.zeros(7, np.uint8), "b": np.frombuffer(DATA, np.uint8)}, path)
    for proof, expected in ((replace(chunk, chunk=None), DATA), (chunk, DATA[128:192])):
        found = bytes_in(path, proof)
        assert path.read_bytes()[found.offset :][: found.nbytes] == expected
    for tensors, message in (
        ({"a": DATA}, r"shard.safetensors has no tensor 'b'"),
        ({"b": DATA[:-1]}, r"tensor 'b' is U8 \[1004\], but U8 \[1003\] in .*shard.safetensors"),
    ):
        save_file({name: np.frombuffer(data, np.uint8) for name, data in tensors.items()}, path)
        with pytest.raises(NotProvenError, match=message):
            bytes_in(path, chunk)


def test_bytes_are_of_the_file_that_was_looked_at(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "data"
    chunk, _ = chunk_proof(DATA, 2)
    whole = replace(chunk, chunk=None)
    for write, proof in (
        (lambda: path.write_bytes(DATA), whole),
        (lambda: path.write_bytes(DATA), chunk),
        (lambda: path.write_bytes(DATA[128:192]), chunk),
        (lambda: save_file({"b": np.frombuffer(DATA, np.uint8)}, path), chunk),
    ):
        write()
        os.utime(path, (0, 0))
        found = bytes_in(path, proof)
        assert Hasher(HashlibCpu(HashlibCpu.devices()[0]), 64).roots([found]) == [
            root(DATA[proof.start : proof.start + proof.nbytes])
        ]
        write()
        with pytest.raises(ChangedWhileReadError, match=r"data: the file was (changed|replaced) while it was read"):
            Hasher(HashlibCpu(HashlibCpu.devices()[0]), 64).roots([found])


def test_what_cannot_have_the_bytes_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "data"
    proof = replace(chunk_proof(DATA, 2)[0], chunk=None)
    with pytest.raises(FileNotFoundError):
        bytes_in(path, proof)
    with pytest.raises(ProofError, match="is not a regular file"):
        bytes_in(tmp_path, proof)
    path.write_bytes(DATA[1:])
    with pytest.raises(
        NotProvenError, match=r"data does not have the 1004 bytes of tensor 'b', and .*data is not a valid"
    ):
        bytes_in(path, proof)
    file = replace(proof, entry=FileEntry("f", 3, root(b"abc")))
    with pytest.raises(NotProvenError, match="data has 1003 bytes, but file 'f' has 3"):
        bytes_in(path, file)
