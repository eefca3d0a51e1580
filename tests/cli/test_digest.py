"""`hashbench digest`: the lines of other tools, compared with the tools themselves where they are installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from boundaries import painted
from command_line import in_own_process, in_process


def tool(name: str) -> str:
    """The path of a tool, which is for the system's administrator in part."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def printed(*command: str | Path) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    sizes = {"empty": 0, "one": 1, "block": 4096, "a b": 4097, "many": 1_500_000, "level": 128 * 4096}
    for name, nbytes in sizes.items():
        Path(name).write_bytes(painted(nbytes).tobytes())
    return list(sizes)


@pytest.mark.covers("fsverity")
def test_lines_are_those_of_fsverity(files: list[str]) -> None:
    fsverity = tool("fsverity")
    done = in_process("digest", "--format", "fs-verity", *files)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == printed(fsverity, "digest", *files)
    given = ["--salt=00ff12", "--block-size=1024"]
    done = in_process("digest", "--format", "fs-verity", *given, *files)
    assert done.stdout == printed(fsverity, "digest", *given, *files)


@pytest.mark.covers("veritysetup")
@pytest.mark.parametrize("salt", ["", "0123456789", "5a" * 32])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_root_hashes_are_those_of_veritysetup(files: list[str], salt: str, algorithm: str) -> None:
    veritysetup = tool("veritysetup")
    given = ["--algorithm", algorithm, *(["--salt", salt] if salt else [])]
    for name in ("block", "level"):
        done = in_process("digest", "--format", "dm-verity", *given, name)
        assert (done.returncode, done.stderr) == (0, b"")
        options = [f"--hash={algorithm}", f"--salt={salt or '-'}", "--root-hash-file=root"]
        printed(veritysetup, "format", *options, name, "tree")
        assert done.stdout == f"{Path('root').read_text()}  {name}\n".encode()


@pytest.mark.covers("libtorrent")
def test_roots_are_those_of_libtorrent(files: list[str]) -> None:
    libtorrent = pytest.importorskip("libtorrent")
    for name in files[1:]:
        done = in_process("digest", "--format", "bittorrent-v2", name)
        torrent = libtorrent.create_torrent(libtorrent.list_files(name), 0, libtorrent.create_torrent.v2_only)
        libtorrent.set_piece_hashes(torrent, ".")
        root = torrent.generate()[b"info"][b"file tree"][name.encode()][b""][b"pieces root"]
        assert done.stdout == f"{root.hex()}  {name}\n".encode()


def test_standard_input_and_kernels(files: list[str]) -> None:
    expected = in_process("digest", "--format", "unixfs", "many").stdout.replace(b"many", b"-")
    given = ["digest", "--format", "unixfs", "--kernel", "hashlib", "--device", "1-thread", "-"]
    assert in_own_process(*given, input=Path("many").read_bytes()).stdout == expected


def test_s3_has_the_size_of_a_part(files: list[str]) -> None:
    Path("large").write_bytes(painted(5 << 20).tobytes())
    done = in_process("digest", "--format", "s3:5MiB", "large", "one")
    # What boto3 with moto 5.2 gave for these bytes.
    assert done.stdout.splitlines()[0] == b"SCL/L3bQfA+9KVneXwOxmSGjcbelJ5SnNxlTTTlkSq4=-1  large"
    assert b"-" not in done.stdout.splitlines()[1]
    whole = in_process("digest", "--format", "s3", "large")
    assert b"-" not in whole.stdout
    assert whole.stdout == in_process("digest", "--format", "s3:8MiB", "large").stdout


def test_json(files: list[str]) -> None:
    lines = in_process("digest", "--format", "bittorrent-v2", "one", "block").stdout.decode().splitlines()
    rows = json.loads(in_process("digest", "--format", "bittorrent-v2", "--json", "one", "block").stdout)
    assert {row["format"] for row in rows} == {"bittorrent-v2"}
    assert [f"{row['digest']}  {row['name']}" for row in rows] == lines


def test_names_stay_on_their_lines(files: list[str]) -> None:
    name = "line\nfeed\\"
    Path(name).write_bytes(b"x")
    done = in_process("digest", "--format", "fs-verity", name, "one")
    first, second = done.stdout.splitlines()
    assert first.startswith(b"\\sha256:")
    assert first.endswith(rb" line\nfeed\\")
    assert second.endswith(b" one")


def test_what_cannot_be_read_is_told_and_the_others_are_printed(files: list[str]) -> None:
    done = in_process("digest", "--format", "dm-verity", "one", "missing", "block", "empty")
    assert done.returncode == 2
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [b"block"]
    assert done.stderr.splitlines() == [
        b"hashbench: dm-verity does not cover the last 1 of 1 bytes: images are blocks of 4096 bytes",
        b"hashbench: missing: No such file or directory",
        b"hashbench: dm-verity has no root hash of an empty image",
    ]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            ["--format", "md5"],
            "'md5' is not a format: accepted are fs-verity, dm-verity, bittorrent-v2, s3:SIZE, unixfs",
        ),
        (["--format", "unixfs:1MiB"], "'unixfs:1MiB' is not a format"),
        (["--format", "s3:many"], "'many' is not a size"),
        (["--format", "s3:1MiB"], "parts of 1048576 bytes are not accepted for s3: 5MiB to 5GiB are"),
        (["--format", "s3:512MiB"], "the largest is 268435456 bytes"),
        (["--format", "unixfs", "--salt", "00"], "--salt cannot be used with the format unixfs"),
        (["--format", "fs-verity", "--algorithm", "sha384"], "--algorithm cannot be used with the format fs-verity"),
        (["--format", "s3", "--block-size", "4KiB"], "--block-size cannot be used with the format s3"),
        (["--format", "fs-verity", "--salt", "0"], "'0' is not a salt: write hexadecimal digits"),
        (["--format", "fs-verity", "--salt", "00" * 33], "a salt of 33 bytes is not accepted for fs-verity"),
        (["--format", "dm-verity", "--block-size", "1000"], "block size 1000 is not accepted for dm-verity"),
        ([], "Missing option '--format'"),
    ],
)
def test_a_call_that_is_not_usable(given: list[str], error: str, files: list[str]) -> None:
    done = in_process("digest", *given, "block")
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert error in line
