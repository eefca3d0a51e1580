"""Attacks by links and by what is no file: none is followed out of the model, none hangs, and none hides another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import Tensor, gguf_file, header
from model_folders import index_of, safetensors_file, trust, write
from pytorch_files import archive, checkpoint, pickled, tensor

import hashbench
from hashbench.hashing.sources import ChangedWhileReadError

GOOD, EVIL = safetensors_file({"w": b"good"}), safetensors_file({"w": b"evil"})
FILES = {"a.txt": b"a", "model.safetensors": GOOD, "z.txt": b"z"}

FORMATS = {
    "config.json": b"{}",
    "model.safetensors": GOOD,
    "pytorch_model.bin": archive(checkpoint(pickled(w=tensor()))),
    "model.gguf": gguf_file(header([Tensor("w", (4,))]), b"good"),
    "onnx/model.onnx": b"",
    "shards/model.safetensors.index.json": index_of({"model-1.safetensors": ["w"]}),
    "shards/model-1.safetensors": GOOD,
}


def snapshot(top: Path) -> tuple[Path, Path]:
    """The files as a Hugging Face cache keeps them: the snapshot, and the blobs."""
    blobs = write(top / "models--org--name" / "blobs", {name.replace("/", "-"): FORMATS[name] for name in FORMATS})
    folder = blobs.parent / "snapshots" / "0123"
    for name in FORMATS:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / name.replace("/", "-"), link.parent))
    return folder, blobs


def test_a_snapshot_in_a_cache_is_its_files(tmp_path: Path) -> None:
    folder, blobs = snapshot(tmp_path)
    manifest = trust(folder)
    plain = write(tmp_path / "plain", FORMATS)
    assert trust(plain).root == manifest.root
    assert (manifest.verdict_on(folder).code, manifest.verdict_on(plain).code) == (0, 0)
    for name, data in FORMATS.items():
        blob = blobs / name.replace("/", "-")
        blob.write_bytes(data + b"\0")
        assert manifest.verdict_on(folder).names("differs") == [name]
        blob.unlink()
        told = manifest.verdict_on(folder)
        assert (told.code, told.names("missing")[0].partition(",")[0]) == (1, name)
        assert f"hashbench: {name!r} is refused: it is a link that leads nowhere" in told.errors
        blob.write_bytes(data)
    assert manifest.verdict_on(folder).code == 0


def test_a_snapshot_that_links_to_another_blob(tmp_path: Path) -> None:
    folder, blobs = snapshot(tmp_path)
    manifest = trust(folder)
    (blobs / "evil").write_bytes(EVIL)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/evil")
    assert manifest.verdict_on(folder).names("differs") == ["w"]


def test_blobs_that_are_a_link_lead_nowhere_else(tmp_path: Path) -> None:
    folder, blobs = snapshot(tmp_path)
    manifest = trust(folder)
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    verdict = manifest.verdict_on(folder)
    assert (verdict.code, len(verdict.names("missing"))) == (1, len(FORMATS))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes devices")


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


OUT, NOWHERE, NO_FILE = (
    "it is a link that leads out of the folder",
    "it is a link that leads nowhere",
    "it is neither a file nor a folder",
)
NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a FIFO": (fifo, NO_FILE),
    "a socket": (listening, NO_FILE),
    "a device": (device, NO_FILE),
    "a link to a device": (link_to("/dev/zero"), OUT),
    "a link to a file outside": (link_to("../outside"), OUT),
    "an absolute link outside": (link_to("/etc/passwd"), OUT),
    "a link through a process": (link_to("/proc/self/cwd"), OUT),
    "a link out and in again": (link_to("../model/../outside"), OUT),
    "a dangling link": (link_to("nothing"), NOWHERE),
    "a circle": (link_to("model.safetensors"), NOWHERE),
    "a link to a folder": (link_to("sub"), "it is a link to a folder; only links to files are accepted"),
    "a link to the folder itself": (link_to("."), "it is a link to a folder; only links to files are accepted"),
    "a link beyond a file": (link_to("a.txt/x"), NOWHERE),
    "a link with a long name": (link_to("x/" * 2000), NOWHERE),
}


@pytest.mark.parametrize(("make", "reason"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_is_told_and_all_else_is_verified(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    folder = write(tmp_path / "model", FILES | {"sub/x": b"x"})
    (tmp_path / "outside").write_bytes(GOOD)
    manifest = trust(folder)
    (folder / "model.safetensors").unlink()
    make(folder / "model.safetensors")
    (folder / "z.txt").write_bytes(b"Z")
    for option in ("fail", "ignore"):
        verdict = manifest.verdict_on(folder, "--extra", option)
        assert verdict.code == 1
        assert verdict.output == ["differs: z.txt: other bytes", "missing: model.safetensors, with 1 tensor"]
        assert verdict.errors == [f"hashbench: 'model.safetensors' is refused: {reason}"]
    with pytest.raises(ValueError, match=r"'model\.safetensors' is refused"):
        hashbench.manifest(folder, kernel="hashlib")


@pytest.mark.parametrize("make", [fifo, device, link_to("/dev/zero"), link_to("nothing")])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json", "config.json"])
def test_what_is_no_file_is_extra_too(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    folder = write(tmp_path / "model", FILES)
    manifests = trust(folder), trust(folder, "--only-tensors", path=tmp_path / "tensors")
    make(folder / name)
    for manifest in manifests:
        verdict = manifest.verdict_on(folder)
        assert verdict.code == 1
        assert verdict.errors[-1].startswith(f"hashbench: {name!r} is refused: it is ")


def test_a_model_that_is_no_file_is_an_error_at_once(tmp_path: Path) -> None:
    manifest = trust(write(tmp_path / "model", FILES))
    fifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        verdict = manifest.verdict_on(path)
        assert (verdict.code, verdict.errors) == (2, [f"hashbench: {path} is neither a file nor a folder"])


# While the model is verified


def relinked(folder: Path) -> None:
    (folder / "new").symlink_to("evil")
    (folder / "new").replace(folder / "model.safetensors")


def added(folder: Path) -> None:
    write(folder, {"pytorch_model.bin": b"evil"})


def renamed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "Model.safetensors")


def removed(folder: Path) -> None:
    (folder / "a.txt").unlink()


def replaced(folder: Path) -> None:
    write(folder, {"new": b"a"})
    (folder / "new").replace(folder / "a.txt")


EXCHANGES = {relinked: "was replaced", added: "appeared", renamed: "appeared", removed: r"a\.txt", replaced: "replaced"}


@pytest.mark.parametrize("at_the_end", [False, True], ids=["at the start", "at the end"])
@pytest.mark.parametrize(("exchange", "how"), EXCHANGES.items(), ids=[change.__name__ for change in EXCHANGES])
def test_what_is_exchanged_meanwhile_is_no_verdict(
    tmp_path: Path, exchange: Callable[[Path], None], how: str, at_the_end: bool
) -> None:
    folder = write(tmp_path / "model", {"a.txt": b"a", "good": GOOD, "evil": EVIL})
    (folder / "model.safetensors").symlink_to("good")
    manifest = hashbench.manifest(folder, kernel="hashlib")

    def meanwhile(done: int, total: int | None) -> None:
        if done == (total if at_the_end else 0):
            exchange(folder)

    with pytest.raises((ChangedWhileReadError, FileNotFoundError), match=how):
        hashbench.verify(folder, manifest, kernel="hashlib", progress=meanwhile)


def test_extra_files_that_are_ignored_may_appear_meanwhile(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = hashbench.manifest(folder, kernel="hashlib")
    assert hashbench.verify(
        folder, manifest, kernel="hashlib", extra="ignore", progress=lambda *_: write(folder, {"log": os.urandom(4)})
    ).ok
