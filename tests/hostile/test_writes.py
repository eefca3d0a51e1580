"""Full disks, closed streams and links: what is written is whole or an error, and nothing of the user's is lost."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import COMMAND, in_own_process, in_process

from hashbench.hashing.atomic_write import AtomicFile, write_atomically

HASHLIB = ("--kernel", "hashlib")
LIMIT = 4096


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose manifest and hashes of chunks are larger than LIMIT."""
    path = tmp_path / "model"
    path.mkdir()
    for number in range(100):
        (path / f"file-{number}.data").write_bytes(bytes(100 * number))
    return path


@pytest.fixture
def manifest(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "manifest.json"
    assert in_process("manifest", model, "-o", path, *HASHLIB).returncode == 0
    assert path.stat().st_size > LIMIT
    return path


def in_shell(redirection: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command with its streams redirected by a shell."""
    line = f"{shlex.join([*COMMAND, *map(str, arguments)])} {redirection}"
    return subprocess.run(line, shell=True, capture_output=True, check=False, env=os.environ | variables)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
buffering = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])

# Standard streams


@full
@buffering
def test_a_manifest_that_does_not_fit_on_standard_output_is_an_error(unbuffered: str, model: Path) -> None:
    done = in_shell("> /dev/full", "manifest", model, *HASHLIB, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr.endswith(b"hashbench: No space left on device\n")


@buffering
def test_part_of_a_manifest_on_standard_output_is_an_error(unbuffered: str, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        done = subprocess.run(
            [*COMMAND, "manifest", model, *HASHLIB],
            stdout=file,
            stderr=subprocess.PIPE,
            preexec_fn=limit_files,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert output.stat().st_size == LIMIT
    assert done.returncode == 2
    assert done.stderr.endswith(b"hashbench: File too large\n")


@buffering
def test_a_manifest_on_standard_output_is_whole(unbuffered: str, model: Path, manifest: Path) -> None:
    done = in_shell("| cat", "manifest", model, *HASHLIB, PYTHONUNBUFFERED=unbuffered)
    assert done.stdout == manifest.read_bytes()


@pytest.mark.parametrize("command", ["hash", "manifest", "--help"])
def test_a_standard_output_that_is_closed_is_an_error(command: str, model: Path) -> None:
    arguments: dict[str, list[str | Path]] = {"hash": [model / "file-1.data", *HASHLIB], "manifest": [model, *HASHLIB]}
    done = in_shell(">&-", command, *arguments.get(command, []))
    assert done.returncode == 2
    assert b"Bad file descriptor" in done.stderr


def test_what_a_library_prints_does_not_go_into_a_file_where_standard_output_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    program = (
        "import os, sys; from pathlib import Path\n"
        "from hashbench.cli import main as cli; from hashbench.hashing.atomic_write import AtomicFile\n"
        "def run(arguments):\n"
        f"    with AtomicFile(Path({str(path)!r})) as file:\n"
        "        file.write(b'content')\n"
        "        try: os.write(1, b'said by a library')\n"
        "        except OSError: pass\n"
        "        file.commit()\n"
        "cli.run = run; cli.main()"
    )
    line = f"{shlex.join([sys.executable, '-P', '-c', program])} >&-"
    assert subprocess.run(line, shell=True, check=False).returncode == 0
    assert path.read_bytes() == b"content"


@full
@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-"])
@buffering
def test_an_error_that_nobody_hears_keeps_its_exit_code(redirection: str, unbuffered: str, model: Path) -> None:
    missing, file = model / "missing", model / "file-1.data"
    done = in_shell(redirection, "hash", *HASHLIB, missing, file, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stdout.endswith(f"  {file}\n".encode())
    assert in_shell(redirection, "hash", *HASHLIB, file, PYTHONUNBUFFERED=unbuffered).returncode == 0


@full
def test_a_verdict_that_cannot_be_written_is_not_one_of_the_model(model: Path, manifest: Path) -> None:
    assert in_shell("> /dev/full", "verify", model, manifest, *HASHLIB).returncode == 2
    assert in_shell("> /dev/full 2>&1", "verify", model, manifest, *HASHLIB).returncode == 2


def test_a_closed_standard_input_is_an_error() -> None:
    done = in_shell("<&-", "hash", *HASHLIB, "-")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"hashbench: -: Bad file descriptor\n")


# Names


def test_names_change_nothing_on_a_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31mred\x07\u202e"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"not a model")
    manifest = tmp_path / "manifest.json"
    for arguments, code in (
        (["manifest", *HASHLIB, folder.parent, "-o", manifest], 0),
        (["hash", *HASHLIB, folder], 2),
        (["hash", "--kernel", folder.name, "x"], 2),
    ):
        done = in_process(*arguments)
        assert done.returncode == code
        assert r"\x1b[31mred\x07\u202e" in done.stderr.decode()
        assert b"\x1b" not in done.stdout + done.stderr
    (folder / "model.safetensors").unlink()
    done = in_process("verify", *HASHLIB, folder.parent, manifest)
    assert done.returncode == 1
    assert rb"\u202e" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr


def test_a_name_that_is_not_unicode_is_escaped(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff"
    done = in_own_process("hash", *HASHLIB, name)
    assert done.returncode == 2
    assert done.stderr.decode() == f"hashbench: {tmp_path}/\\udcff: No such file or directory\n"


# Files


def written_by(command: str) -> Callable[[Path, Path, Path], list[str | Path]]:
    """The arguments with which a command writes a file, of the model, its manifest and the file."""
    return {
        "manifest": lambda model, _, path: ["manifest", model, "-o", path],
        "leaves": lambda model, _, path: ["manifest", model, "--leaves", path],
        "prove": lambda _, manifest, path: ["prove", manifest, "file-99.data", "-o", path],
    }[command]


@pytest.mark.parametrize("command", ["manifest", "leaves"])
def test_a_full_disk_leaves_the_older_file_and_nothing_else(command: str, model: Path, manifest: Path) -> None:
    path = model.parent / "out" / "file"
    path.parent.mkdir()
    arguments = [*written_by(command)(model, manifest, path), *HASHLIB]
    assert in_process(*arguments).returncode == 0
    before = path.read_bytes()
    assert len(before) > LIMIT
    (model / "file-0.data").write_bytes(b"changed")
    done = in_own_process(*arguments, preexec_fn=limit_files)
    assert done.returncode == 2
    assert done.stderr.decode() == f"hashbench: {path}: cannot be written: File too large\n"
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("command", ["manifest", "leaves", "prove"])
def test_links_are_replaced_and_not_followed(command: str, model: Path, manifest: Path) -> None:
    folder = model.parent / "out"
    folder.mkdir()
    target, path = model.parent / "precious", folder / "file"
    path.symlink_to(target)
    for number in range(1, 300):  # as if to guess the name of a temporary file
        for name in (f".file.{number}", f"file.{number}", f".file.{number}.tmp"):
            (folder / name).symlink_to(target)
    before = len(list(folder.iterdir()))
    assert in_process(*written_by(command)(model, manifest, path), *HASHLIB).returncode == 0
    assert not target.exists()
    assert path.is_file()
    assert not path.is_symlink()
    assert len(list(folder.iterdir())) == before


def test_a_link_to_something_else_is_not_overwritten(model: Path, manifest: Path) -> None:
    precious = model.parent / "precious"
    precious.write_text("precious")
    path = model.parent / "link"
    path.symlink_to(precious)
    for command in ("manifest", "leaves", "prove"):
        assert in_process(*written_by(command)(model, manifest, path), *HASHLIB).returncode == 2
    assert precious.read_text() == "precious"
    assert path.is_symlink()


@pytest.mark.parametrize("failing", ["fsync", "write", "rename"])
def test_a_file_that_fails_at_any_step_leaves_no_trace(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        *{"fsync": (os, "fsync"), "write": (AtomicFile, "write"), "rename": (Path, "replace")}[failing], fail
    )
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, json.dumps(list(range(10_000))).encode())
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
