"""Manifests: their exact bytes, what reads back, and that nothing else is accepted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from python_calls import calls_of

import hashbench.model.manifest
from hashbench.kernels import ALGORITHMS
from hashbench.model.dtypes import DTYPE_BITS, GGML_BLOCKS, tensor_nbytes
from hashbench.model.manifest import (
    Entry,
    FileEntry,
    Manifest,
    ManifestError,
    TensorEntry,
    parse_manifest,
    read_manifest,
)
from hashbench.model.strict_json import MAX_INTEGER

ROOT = bytes(range(32))


def tensor(name: str, dtype: str = "U8", shape: tuple[int, ...] = (4,), nbytes: int = 4) -> TensorEntry:
    return TensorEntry(name, dtype, shape, nbytes, ROOT)


MANIFEST = Manifest(
    "sha256",
    4096,
    (
        TensorEntry("b", "BF16", (2, 3), 12, ROOT, "c.gguf", 5),
        FileEntry("a/é.json", 7, ROOT),
        TensorEntry("A", "U8", (4,), 4, ROOT, "c.gguf"),
        FileEntry("c.gguf", 20, ROOT, 8),
        TensorEntry("d", "U8", (1,), 1, ROOT, "c.gguf"),
    ),
    ("._*", ".git"),
)

names = st.text(st.characters(codec="utf-8"), max_size=12)
paths = st.lists(names.filter(lambda n: n not in ("", ".", "..") and not {"/", "\0"} & set(n)), min_size=1).map(
    "/".join
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    algorithm = draw(st.sampled_from(list(ALGORITHMS.values())))
    roots = st.binary(min_size=algorithm.digest_size, max_size=algorithm.digest_size)
    entries: dict[str, Entry] = {}
    files = draw(st.lists(paths, max_size=4))
    for name in draw(st.lists(names, max_size=4)):
        dtype = draw(st.sampled_from(list(DTYPE_BITS)))
        shape = (*draw(st.lists(st.integers(0, 1000), max_size=3)), 4)
        file = files[0] if files else None
        entries[name] = TensorEntry(name, dtype, shape, tensor_nbytes(dtype, shape), draw(roots), file)
    for path in files:
        size = draw(st.integers(0, MAX_INTEGER))
        entries[path] = FileEntry(path, size, draw(roots), size if path == files[0] else None)
    exclusions = draw(st.lists(paths, max_size=3))
    return Manifest(algorithm.name, 64 * draw(st.integers(1, 1 << 40)), tuple(entries.values()), tuple(exclusions))


def test_a_manifest_is_the_bytes_that_the_design_says() -> None:
    records = [
        b'{"dtype":"U8","file":"c.gguf","name":"A","root":"%s","shape":[4]}',
        '{"path":"a/é.json","root":"%s","size":7}'.encode(),
        b'{"dtype":"BF16","file":"c.gguf","name":"b","offset":5,"root":"%s","shape":[2,3]}',
        b'{"frame_bytes":8,"path":"c.gguf","root":"%s","size":20}',
        b'{"dtype":"U8","file":"c.gguf","name":"d","root":"%s","shape":[1]}',
    ]
    root = ROOT.hex().encode()
    a, config, b, gguf, d = records = [record % root for record in records]
    assert [entry.record() for entry in MANIFEST.entries] == records

    def h(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    one, two, three, four, five = (h(b"\x00" + record) for record in records)
    tree = h(b"\x01" + h(b"\x01" + h(b"\x01" + one + two) + h(b"\x01" + three + four)) + five)
    header = (
        b'{"algorithm":"sha256","chunk_size":4096,"count":5,"entries":"%s","exclusions":["._*",".git"],'
        b'"kind":"hashbench-manifest","tree":"rfc9162","version":2}' % tree.hex().encode()
    )
    assert MANIFEST.root == h(b"\x02" + header)
    assert MANIFEST.text() == (
        b'{"algorithm":"sha256","chunk_size":4096,"exclusions":["._*",".git"],"files":[%b,%b],'
        b'"kind":"hashbench-manifest","root":"%b","tensors":[{"bytes":4,%b,{"bytes":12,%b,{"bytes":1,%b],'
        b'"tree":"rfc9162","version":2}\n' % (config, gguf, MANIFEST.root.hex().encode(), a[1:], b[1:], d[1:])
    )


def test_everything_that_gives_entries_their_meaning_is_under_the_root() -> None:
    entries = MANIFEST.entries
    moved, elsewhere = entries[2], entries[4]
    assert isinstance(moved, TensorEntry)
    assert isinstance(elsewhere, TensorEntry)
    others = [
        Manifest("sha256", 4096, entries),
        Manifest("sha256", 4096, entries, (".git",)),
        Manifest("sha256", 8192, entries, MANIFEST.exclusions),
        Manifest(
            "sha256", 4096, (*entries[:4], replace(elsewhere, file="e"), FileEntry("e", 0, ROOT, 0)), ("._*", ".git")
        ),
        Manifest("sha256", 4096, (*entries[:2], replace(moved, offset=6), *entries[3:]), MANIFEST.exclusions),
        Manifest("sha256", 4096, entries[:4], MANIFEST.exclusions),
        Manifest("sha256", 4096, ()),
    ]
    assert len({one.root for one in (MANIFEST, *others)}) == 8


def test_names_are_in_the_order_of_code_points() -> None:
    # UTF-16, which RFC 8785 sorts keys by, has the last two the other way round.
    given_names = ["\U0001f600", "\uffee", "b", "a.10", "a.9", "B", ""]
    manifest = Manifest("sha256", 64, tuple(map(tensor, given_names)))
    assert [entry.name for entry in manifest.entries] == ["", "B", "a.10", "a.9", "b", "\uffee", "\U0001f600"]
    assert parse_manifest(manifest.text()) == manifest


@given(manifests())
def test_what_is_written_reads_back(manifest: Manifest) -> None:
    text = manifest.text()
    read = parse_manifest(text)
    assert read == manifest
    assert (read.root, read.text()) == (manifest.root, text)
    assert text == rfc8785.dumps(json.loads(text)) + b"\n"


@given(manifests())
def test_records_are_canonical(manifest: Manifest) -> None:
    assert [entry.record() for entry in manifest.entries] == [rfc8785.dumps(e.fields()) for e in manifest.entries]


@given(manifests(), st.randoms())
def test_the_order_of_entries_given_does_not_matter(manifest: Manifest, random: Any) -> None:
    entries = list(manifest.entries)
    random.shuffle(entries)
    assert replace(manifest, entries=tuple(entries)) == manifest


def test_every_flipped_bit_of_a_manifest_is_found() -> None:
    text = MANIFEST.text()
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ManifestError):
            parse_manifest(bytes(flipped))


@given(manifests(), st.data())
def test_what_is_damaged_is_refused_or_another_manifest(manifest: Manifest, draw: st.DataObject) -> None:
    text = manifest.text()
    start = draw.draw(st.integers(0, len(text)))
    stop = draw.draw(st.integers(start, min(len(text), start + 8)))
    damaged = (
        text[:start] + draw.draw(st.binary(max_size=4) | st.sampled_from([b"[", b"{", b'"', b"0", b" "])) + text[stop:]
    )
    try:
        read = parse_manifest(damaged)
    except ManifestError:
        return
    assert read.text() == damaged


Change = Callable[[dict[str, Any]], object]


def first(document: dict[str, Any]) -> dict[str, Any]:
    return dict(document["tensors"][0])


REFUSED: dict[str, tuple[Change, str]] = {
    "another version": (lambda d: d.update(version=1), "its version is 1; accepted is 2"),
    "another kind": (lambda d: d.update(kind="hashbench-proof"), "schema at \\$.kind"),
    "another tree": (lambda d: d.update(tree="rfc6962"), "schema at \\$.tree"),
    "another exclusion": (lambda d: d["exclusions"].append("x"), "root is not the one of its entries"),
    "an exclusion of everything above": (
        lambda d: d["exclusions"].append("../x"),
        "the pattern '../x' is not accepted",
    ),
    "exclusions out of order": (lambda d: d["exclusions"].reverse(), "not canonical"),
    "no exclusions": (lambda d: d.pop("exclusions"), "schema at \\$: .*exclusions"),
    "a frame of another size": (
        lambda d: d["files"][1].update(frame_bytes=9),
        "'c.gguf' is not accepted: its frame has 9 bytes, but its tensors leave 8",
    ),
    "a file without the frame of its tensors": (
        lambda d: d["files"][1].pop("frame_bytes"),
        "'A' is not accepted: 'c.gguf' is not a file with a frame",
    ),
    "a tensor in no file": (lambda d: d["tensors"][1].update(file="x"), "'x' is not a file with a frame"),
    "a tensor beyond its file": (lambda d: d["tensors"][1].update(offset=9), "a tensor ends at byte 21 of 20"),
    "a tensor before its file": (lambda d: d["tensors"][1].update(offset=-1), "schema at \\$.tensors\\[1\\].offset"),
    "tensors that overlap": (lambda d: d["tensors"][2].update(offset=16), "tensors overlap at byte 16"),
    "an offset in no file": (
        lambda d: (d.update(files=[]), [t.pop("file") for t in d["tensors"]]),
        "an offset but no file",
    ),
    "a version that is a text": (lambda d: d.update(version="1"), "its version is '1'"),
    "no version": (lambda d: d.pop("version"), 'schema at \\$: "version" is a required property'),
    "no root": (lambda d: d.pop("root"), 'schema at \\$: "root"'),
    "an unknown field": (lambda d: d.update(signature=""), "schema at \\$: .*signature"),
    "an unknown field on two lines": (lambda d: d.update({"a\nb": ""}), r"schema at \$: .*'a\\nb'"),
    "an unknown algorithm": (lambda d: d.update(algorithm="md5"), "schema at \\$.algorithm"),
    "the other algorithm": (lambda d: d.update(algorithm="sha384"), "64 digits, not 96"),
    "a chunk size that is none": (lambda d: d.update(chunk_size=100), "schema at \\$.chunk_size"),
    "a chunk size of 0": (lambda d: d.update(chunk_size=0), "schema at \\$.chunk_size"),
    "a chunk size beyond what is exact": (lambda d: d.update(chunk_size=1 << 60), "is not exact"),
    "another root": (
        lambda d: d.update(root="00" * 32),
        f"root is not the one of its entries, {MANIFEST.root.hex()}",
    ),
    "half a root": (lambda d: d.update(root="00" * 16), "schema at \\$.root"),
    "no lists": (lambda d: d.update(tensors={}), "schema at \\$.tensors"),
    "a tensor that is none": (lambda d: d["tensors"].append(1), "schema at \\$.tensors\\[3\\]"),
    "a tensor twice": (lambda d: d["tensors"].append(first(d)), "two entries have the name 'A'"),
    "a tensor fewer": (lambda d: d["tensors"].pop(), "root is not the one of its entries"),
    "tensors out of order": (lambda d: d["tensors"].reverse(), "not canonical"),
    "a tensor named as a file": (
        lambda d: d["tensors"][0].update(name="a/é.json"),
        "two entries have the name 'a/é.json'",
    ),
    "a tensor of another name": (lambda d: d["tensors"][0].update(name="AA"), "root is not the one"),
    "a tensor's root in capitals": (lambda d: d["tensors"][0].update(root=ROOT.hex().upper()), "tensors\\[0\\].root"),
    "a tensor's root and a line feed": (
        lambda d: d["tensors"][0].update(root=ROOT.hex() + "\n"),
        "tensors\\[0\\].root",
    ),
    "a tensor's root of the other algorithm": (lambda d: d["tensors"][0].update(root="00" * 48), "96 digits"),
    "an unknown dtype": (lambda d: d["tensors"][0].update(dtype="X9"), "schema at \\$.tensors\\[0\\].dtype"),
    "a negative shape": (lambda d: d["tensors"][0].update(shape=[-2, -2]), "schema at \\$.tensors\\[0\\].shape"),
    "a huge shape": (
        lambda d: d["tensors"][0].update(shape=[MAX_INTEGER] * 9),
        "'A' is not accepted: .* more than 2\\^60",
    ),
    "bytes of another shape": (
        lambda d: d["tensors"][0].update(shape=[5]),
        "has 4 bytes, but its dtype and shape need 5",
    ),
    "bytes of another number": (
        lambda d: d["tensors"][0].update(bytes=5),
        "has 5 bytes, but its dtype and shape need 4",
    ),
    "a fraction": (lambda d: d["tensors"][0].update(bytes=4.0), "4.0 is not accepted"),
    "a boolean": (lambda d: d["files"][0].update(size=True), "schema at \\$.files\\[0\\].size"),
    "another size": (lambda d: d["files"][0].update(size=8), "root is not the one"),
    "a path to the root": (lambda d: d["files"][0].update(path="/etc/passwd"), "path is not relative"),
    "a path out of the folder": (lambda d: d["files"][0].update(path="a/../../b"), "path is not relative"),
    "a path with a detour": (lambda d: d["files"][0].update(path="a/./b"), "path is not relative"),
    "a path to a folder": (lambda d: d["files"][0].update(path="a/"), "path is not relative"),
    "a path with a zero": (lambda d: d["files"][0].update(path="a\0"), "path is not relative"),
    "an empty path": (lambda d: d["files"][0].update(path=""), "schema at \\$.files\\[0\\].path"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_manifest_is_refused_with_its_reason(tmp_path: Path, change: Change, reason: str) -> None:
    document = json.loads(MANIFEST.text())
    change(document)
    path = tmp_path / "model.manifest.json"
    path.write_text(json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False) + "\n")
    with pytest.raises(ManifestError, match=reason) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a valid manifest: ")
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text + b"\n",
        lambda text: b" " + text,
        lambda text: text.replace(b",", b", "),
        lambda text: json.dumps(json.loads(text), indent=1).encode(),
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")).encode() + b"\n",
        lambda text: text.replace("é".encode(), b"\\u00e9"),
    ],
    ids=["no end", "an empty line", "space before", "space within", "indented", "keys out of order", "escaped"],
)
def test_the_same_manifest_in_other_bytes_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ManifestError, match="not canonical: accepted is RFC 8785"):
        parse_manifest(change(MANIFEST.text()))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[]", "schema at \\$"),
        (b"null", "schema at \\$"),
        (b"[" * 100_000 + b"]" * 100_000, "nest more than 4 deep"),
        (b'{"version":2,"version":2}', "occurs twice"),
    ],
    ids=["nothing", "a list", "null", "deep", "a key twice"],
)
def test_what_is_something_else_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=reason) as caught:
        read_manifest(path)
    assert len(str(caught.value)) < 600


def test_a_missing_file_is_reported_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ((tensor("a"), FileEntry("b", 4, ROOT)), "it names no file, but others do"),
        ((TensorEntry("a", "U8", (0,), 0, ROOT, "b", 5), FileEntry("b", 4, ROOT, 4)), "a tensor ends at byte 5 of 4"),
        ((tensor("a"), FileEntry("a", 4, ROOT)), "two entries have the name 'a'"),
        ((tensor("\ud800"),), "not valid Unicode"),
        ((tensor("a", "C128", (1,), 16),), "dtype 'C128' is unknown: accepted are BOOL"),
        ((tensor("a", "F4", (3,), 1),), "12 bits are not a whole number of bytes"),
        ((tensor("a", shape=(0, 1 << 53), nbytes=0),), "a number is not between 0 and"),
        ((tensor("a", shape=(-4,), nbytes=-4),), "a number is not between 0 and"),
        ((TensorEntry("a", "U8", (4,), 4, ROOT[1:]),), "31 bytes, not 32"),
        ((FileEntry("../a", 4, ROOT),), "path is not relative"),
        ((FileEntry("a", 1 << 53, ROOT),), "a number is not between 0 and"),
    ],
)
def test_entries_that_would_not_read_back_are_refused(entries: tuple[Entry, ...], reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        Manifest("sha256", 4096, entries)


@pytest.mark.parametrize(
    ("algorithm", "chunk_size"), [("sha1", 64), ("sha256", 63), ("sha256", 0), ("sha256", 1 << 53)]
)
def test_an_unknown_algorithm_or_chunk_size_is_refused(algorithm: str, chunk_size: int) -> None:
    with pytest.raises(ManifestError, match=r"sha1|chunk size"):
        Manifest(algorithm, chunk_size, ())


def test_a_manifest_too_large_to_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(MANIFEST.text())
    size = path.stat().st_size
    monkeypatch.setattr(hashbench.model.manifest, "MAX_SIZE", size)
    assert read_manifest(path) == MANIFEST
    monkeypatch.setattr(hashbench.model.manifest, "MAX_SIZE", size - 1)
    with pytest.raises(ManifestError, match=f"more than {size - 1} bytes"):
        read_manifest(path)
    with pytest.raises(ManifestError, match=f"would have {size} bytes; up to {size - 1} are accepted"):
        MANIFEST.text()


def test_the_schema_is_sound_and_knows_every_dtype_and_algorithm() -> None:
    schema = json.loads(files("hashbench.model").joinpath("manifest.schema.json").read_text())
    jsonschema_rs.meta.validate(schema)
    assert schema["$defs"]["tensor"]["properties"]["dtype"]["enum"] == [*DTYPE_BITS, *GGML_BLOCKS]
    assert schema["properties"]["algorithm"]["enum"] == list(ALGORITHMS)


def test_a_long_manifest_is_read_in_a_moment() -> None:
    def calls(entries: int) -> int:
        text = Manifest("sha256", 64, tuple(tensor(f"layers.{n}.weight") for n in range(entries))).text()
        parse_manifest(text)  # once for what is made once
        return calls_of(lambda: parse_manifest(text))

    assert calls(300) - calls(100) <= 300 * 200
