"""Every file of a folder is listed, or refused by name, or excluded on the record."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hashbench.model.contents import list_model
from hashbench.model.exclusions import DEFAULT, MAX_LENGTH, MAX_PATTERNS, ExclusionError, Exclusions, exactly
from hashbench.model.folder import list_folder, list_named

NONE = Exclusions(())


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names_in(folder: Path, exclusions: Exclusions = NONE) -> list[str]:
    return [file.name for file in list_folder(folder, exclusions).files]


def test_every_file_is_listed_hidden_ones_too(tmp_path: Path) -> None:
    names = ["a/b/.hidden", "a/config.json", ".env", "model.safetensors", "Model.safetensors"]
    make(tmp_path, *names)
    (tmp_path / "empty folder").mkdir()
    listing = list_folder(tmp_path, NONE)
    assert [file.name for file in listing.files] == sorted(names)
    assert [file.path.read_text() for file in listing.files] == sorted(names)
    assert [file.status.st_size for file in listing.files] == [len(name) for name in sorted(names)]
    assert (dict(listing.refused), listing.excluded) == ({}, ())


def test_names_are_not_read_in_another_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a", "\xe9")
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "gbk")
    listing = list_folder(tmp_path, NONE)
    assert [file.name for file in listing.files] == ["a"]
    assert "set PYTHONUTF8=1" in listing.refused["\xe9"]


def test_defaults_leave_out_what_tools_leave_behind(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".git/HEAD",
        "sub/.git/HEAD",
        ".cache/huggingface/x",
        ".cache/other",
        ".DS_Store",
        "sub/._model.safetensors",  # a loader may find it
    )
    listing = list_folder(tmp_path, Exclusions(DEFAULT))
    assert [file.name for file in listing.files] == [".cache/other", "sub/._model.safetensors"]
    assert listing.excluded == (".DS_Store", ".cache/huggingface", ".git", "sub/.git")


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.bin", ["a/c.pt", "d[1].pt"]),
        ("a", ["b.bin", "d[1].pt"]),
        ("a/*", ["b.bin", "d[1].pt"]),
        ("A", ["a/b.bin", "a/c.pt", "b.bin", "d[1].pt"]),
        ("a/b.bin", ["a/c.pt", "b.bin", "d[1].pt"]),
        ("/*.bin", ["a/c.pt", "d[1].pt"]),
        ("/b.bin", ["a/b.bin", "a/c.pt", "d[1].pt"]),
        (exactly("d[1].pt"), ["a/b.bin", "a/c.pt", "b.bin"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, left: list[str]) -> None:
    make(tmp_path, "a/b.bin", "a/c.pt", "b.bin", "d[1].pt")
    assert names_in(tmp_path, Exclusions([pattern])) == left


@pytest.mark.parametrize(
    "pattern", ["", "/", "//a", "a/", "a//b", ".", "../a", "a/./b", "\udc80", "a\0", "x" * (MAX_LENGTH + 1)]
)
def test_patterns_that_are_no_relative_path_are_refused(pattern: str) -> None:
    with pytest.raises(ExclusionError, match="is not accepted") as raised:
        Exclusions([pattern])
    assert "\n" not in str(raised.value)


def test_patterns_are_counted() -> None:
    assert Exclusions(["b", "a", "b"]).patterns == ("a", "b")
    with pytest.raises(ExclusionError, match="the most is"):
        Exclusions(map(str, range(MAX_PATTERNS + 1)))


def test_a_pattern_takes_no_time_that_grows_with_its_stars() -> None:
    pattern = "*a" * (MAX_LENGTH // 2)
    assert not Exclusions([pattern]).exclude("a" * (MAX_LENGTH // 2 - 1) + "b")


def test_links_within_the_folder_are_files(tmp_path: Path) -> None:
    make(tmp_path, "weights/real")
    (tmp_path / "link").symlink_to("weights/real")
    (tmp_path / "chain").symlink_to("link")
    listing = list_folder(tmp_path, NONE)
    assert [file.name for file in listing.files] == ["chain", "link", "weights/real"]
    assert len({file.path for file in listing.files}) == 1


def test_a_snapshot_of_a_hugging_face_cache_links_to_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    make(repository, "blobs/1234", "refs/main")
    make(tmp_path / "models--org--other", "blobs/5678")
    snapshot = repository / "snapshots" / "abcd"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "model.bin").symlink_to("../../blobs/1234")
    (snapshot / "unet" / "model.gguf").symlink_to("../../../blobs/1234")
    (snapshot / "stranger").symlink_to("../../../models--org--other/blobs/5678")
    (snapshot / "ref").symlink_to("../../refs/main")
    listing = list_folder(snapshot, NONE)
    assert [file.name for file in listing.files] == ["model.bin", "unet/model.gguf"]
    assert list(listing.refused) == ["ref", "stranger"]


def test_of_files_that_are_named_no_other_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--org--name"
    make(repository, "blobs/1234", "snapshots/abcd/plain", "snapshots/abcd/unwanted", "snapshots/abcd/folder/file")
    make(tmp_path, "outside")
    snapshot = repository / "snapshots" / "abcd"
    (snapshot / "link").symlink_to("../../blobs/1234")
    (snapshot / "out").symlink_to(tmp_path / "outside")
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("the folder was listed"))
    listing = list_named(snapshot, ["plain", "link", "plain", "absent", "x" * 300, "out", "folder"])
    assert [file.name for file in listing.files] == ["link", "plain"]
    assert dict(listing.refused) == {"out": "it is a link that leads out of the folder"}


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    model = tmp_path / "model"
    make(model, "config.json", "sub/file")
    make(tmp_path, "outside")
    (model / "out").symlink_to("../outside")
    (model / "absolute").symlink_to(tmp_path / "outside")
    (model / "dangling.safetensors").symlink_to("nothing")
    (model / "circle").symlink_to("circle")
    (model / "folder").symlink_to("sub")
    (model / "model.safetensors").symlink_to("/dev/zero")
    os.mkfifo(model / "fifo.safetensors")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(model / "socket"))
    listing = list_folder(model, NONE)
    assert [file.name for file in listing.files] == ["config.json", "sub/file"]
    assert dict(listing.refused) == {
        "absolute": "it is a link that leads out of the folder",
        "circle": "it is a link that leads nowhere",
        "dangling.safetensors": "it is a link that leads nowhere",
        "fifo.safetensors": "it is neither a file nor a folder",
        "folder": "it is a link to a folder; only links to files are accepted",
        "model.safetensors": "it is a link that leads out of the folder",
        "out": "it is a link that leads out of the folder",
        "socket": "it is neither a file nor a folder",
    }


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.safetensors")
    (tmp_path / name).touch()
    listing = list_folder(tmp_path, NONE)
    assert listing.files == ()
    assert dict(listing.refused) == {name: "its name is not valid UTF-8"}
    assert list_model(tmp_path, NONE).problems == (r"'\udcff.safetensors' is refused: its name is not valid UTF-8",)


def test_what_is_no_folder_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "file")
    for path in (tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(OSError, match=r"file|nothing"):
            list_folder(path, NONE)
