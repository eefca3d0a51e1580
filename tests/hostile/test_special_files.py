"""Pipes, devices and sockets in the place of files: no command waits for them, and none reads them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import in_own_process, in_process

from hashbench.hashing.opening import open_regular, read_regular

HASHLIB = ("--kernel", "hashlib")


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Fails a test that waits: an open that blocks is interrupted."""

    def late(number: int, frame: object) -> None:
        pytest.fail("it waits for a pipe")  # which no command catches

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a model of two files."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights.data").write_bytes(bytes(1000))
    (path / "config.json").write_bytes(b"{}")
    return path


@pytest.fixture
def manifest(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "manifest.json"
    assert in_process("manifest", model, "-o", path, *HASHLIB).returncode == 0
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody writes to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def refused(*arguments: str | Path) -> str:
    """The one line with which a command refuses its arguments."""
    done = in_process(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# As arguments


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/null", "/dev/tty", "/dev/stdin"])
def test_devices_are_not_hashed(special: str) -> None:
    if not Path(special).exists():
        pytest.skip(f"this system has no {special}")
    done = in_own_process("hash", *HASHLIB, special, input=b"data", timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"hashbench: {special}: Not a regular file\n"


def test_a_socket_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert refused("hash", *HASHLIB, "socket") == "hashbench: socket: Not a regular file"


def test_a_pipe_is_not_hashed(pipe: Path, model: Path) -> None:
    done = in_process("hash", *HASHLIB, pipe, model / "config.json")
    assert done.returncode == 2
    assert done.stderr.decode() == f"hashbench: {pipe}: Not a regular file\n"
    assert done.stdout.endswith(b"config.json\n")


def test_a_pipe_is_no_model(pipe: Path, manifest: Path) -> None:
    assert "pipe" in refused("manifest", *HASHLIB, pipe)
    assert "/dev/zero" in refused("manifest", *HASHLIB, "/dev/zero")
    index = pipe.rename(pipe.with_name("model.safetensors.index.json"))
    assert index.name in refused("manifest", *HASHLIB, index)
    pipe = index
    for path in pipe, "/dev/zero":
        done = in_process("verify", *HASHLIB, path, manifest)
        assert done.returncode in (1, 2)
        assert b"verified" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "{model}", "{pipe}"),
        ("verify", "{model}", "{manifest}", "--leaves", "{pipe}"),
        ("manifest", "{model}", "--update", "{pipe}"),
        ("manifest", "{model}", "-o", "{pipe}"),
        ("manifest", "{model}", "--leaves", "{pipe}"),
        ("prove", "{pipe}", "config.json"),
        ("prove", "{manifest}", "config.json", "-o", "{pipe}"),
        ("prove", "{manifest}", "config.json", "--chunk", "0", "--model", "{pipe}"),
        ("prove", "{manifest}", "config.json", "--chunk", "0", "--leaves", "{pipe}"),
        ("check-proof", "{pipe}", "--root", "00" * 32),
        ("check-proof", "{proof}", "{pipe}", "--root", "00" * 32),
    ],
    ids=lambda arguments: "-".join(arguments).replace("{", "").replace("}", "")[:40],
)
def test_commands_take_no_pipe_for_a_document(
    arguments: tuple[str, ...], model: Path, manifest: Path, pipe: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof.json"
    assert in_process("prove", manifest, "config.json", "-o", proof).returncode == 0
    (model / "weights.data").write_bytes(bytes(999) + b"1")  # so that leaves are wanted
    paths = {"model": model, "manifest": manifest, "pipe": pipe, "proof": proof}
    done = in_process(*(argument.format_map(paths) for argument in arguments), *HASHLIB)
    assert done.returncode in (1, 2), done
    assert done.stderr
    assert b"verified" not in done.stdout
    assert b"proven" not in done.stdout
    assert pipe.is_fifo()


# In folders


@pytest.mark.parametrize(
    "name", ["pipe", "config.json", "weights.data", "model.safetensors", "model.safetensors.index.json"]
)
def test_a_pipe_in_a_model_is_refused(name: str, model: Path, manifest: Path) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert name in refused("manifest", *HASHLIB, model)
    done = in_process("verify", *HASHLIB, model, manifest)
    assert done.returncode in (1, 2)
    assert b"verified" not in done.stdout


RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("command", ["report", "figures", "compare"])
@pytest.mark.parametrize("name", ["machine.json", "throughput.csv"])
def test_a_pipe_among_results_is_not_waited_for(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    from drawings import keep_figures

    keep_figures(monkeypatch)
    machine = next(path.parent for path in sorted(RESULTS.glob("*/throughput.csv")))
    copy = tmp_path / "results" / machine.name
    copy.mkdir(parents=True)
    for copied in ("machine.json", "throughput.csv"):
        shutil.copy(machine / copied, copy)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    what = [copy, copy] if command == "compare" else ["--results", copy.parent]
    assert in_process(command, *what).returncode in (0, 2)


# Opening


def test_regular_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    (tmp_path / "link").symlink_to(path)
    for name in path, str(path), tmp_path / "link":
        with open_regular(name) as file:
            assert file.read() == b"content"
        assert read_regular(name) == b"content"
        assert read_regular(name, 3) == b"con"
    assert read_regular("/proc/self/stat")


def test_what_is_not_regular_is_named(pipe: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pipe)
    (tmp_path / "dangling").symlink_to("missing")
    cases = {
        pipe: OSError,
        tmp_path / "link": OSError,
        tmp_path: IsADirectoryError,
        tmp_path / "dangling": FileNotFoundError,
    }
    for path, kind in cases.items():
        with pytest.raises(kind) as error:
            open_regular(path)
        assert error.value.filename == str(path)


def test_a_pipe_that_takes_a_files_place_is_not_read(
    tmp_path: Path, pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    regular = path.stat()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with monkeypatch.context() as racing:
        racing.setattr(os, "stat", lambda path, **options: regular)
        with pytest.raises(OSError, match="Not a regular file"):
            open_regular(pipe)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
