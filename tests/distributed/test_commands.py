"""The commands that several ranks, or several devices, take part in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import in_process

import hashbench
from hashbench.cli.combine import combine_parts
from hashbench.distributed import Part, PartError, Shard, combine, parse_part, part
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.selection import choose
from hashbench.hashing.shared import SharedHasher, TeamError
from hashbench.hashing.sources import FileRange
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.model.manifest import Manifest

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.covers("distributed")]


def parts_of(values: torch.Tensor, count: int) -> list[Part]:
    """The parts of `count` ranks that share a tensor's rows out."""
    parts, start = [], 0
    for rank, rows in enumerate(values.tensor_split(count)):
        parts.append(part({"a": Shard(rows, values.shape, (start, 0))}, chunk_size=64, rank=rank))
        start += len(rows)
    return parts


def write(parts: list[Part], folder: Path) -> list[str]:
    for one in parts:
        (folder / f"{one.rank}.json").write_bytes(one.text())
    return [str(folder / f"{one.rank}.json") for one in parts]


VALUES = torch.arange(300, dtype=torch.float32).reshape(30, 10)


def test_combine_writes_the_manifest_of_the_whole(tmp_path: Path) -> None:
    output = tmp_path / "manifest.json"
    result = CliRunner().invoke(combine_parts, [*write(parts_of(VALUES, 3), tmp_path), "-o", str(output)])
    assert result.exit_code == 0, result.output
    made = hashbench.model.manifest.read_manifest(output)
    data = VALUES.numpy().tobytes()
    assert made.tensors[0].root == merkle_tree_hash(chunks_of(data, 64), "sha256")
    again = CliRunner().invoke(combine_parts, write(parts_of(VALUES, 2), tmp_path))
    assert again.stdout_bytes == output.read_bytes()


@pytest.mark.parametrize(
    ("lost", "said"), [(0, "bytes 0 to 400 are missing"), (1, "bytes 400 to 800 are missing"), (2, "bytes 800 to 1200")]
)
def test_combine_refuses_parts_that_lack_one(lost: int, said: str) -> None:
    parts = parts_of(VALUES, 3)
    with pytest.raises(PartError, match=f"the tensor 'a' is not complete on ranks .*: {said}"):
        combine(one for one in parts if one.rank != lost)


def test_combine_refuses_parts_that_do_not_fit() -> None:
    first, second, _ = parts_of(VALUES, 3)
    (held,) = first.tensors
    with pytest.raises(PartError, match="two parts are of the same rank"):
        combine([first, first])
    with pytest.raises(PartError, match="rank 1 overlaps at byte 200"):
        combine([first, part({"a": Shard(VALUES[5:], VALUES.shape, (5, 0))}, chunk_size=64, rank=1)])
    with pytest.raises(PartError, match="ranks disagree on what to hash with: rank 0: sha256 in chunks of 64; rank 7"):
        combine([first, part({"a": VALUES}, chunk_size=128, rank=7)])
    with pytest.raises(PartError, match=r"the copies of the tensor 'a' differ: one is on rank 0; one is on rank 1"):
        combine(part({"a": VALUES + rank}, chunk_size=64, rank=rank) for rank in range(2))
    with pytest.raises(PartError, match="rank 1 is missing, but holds some of the tensor 'a'"):
        combine([Part(0, "sha256", 64, (replace(held, ranks=(0, 1)),))])
    with pytest.raises(PartError, match="nothing to combine"):
        combine([])
    assert second.tensors[0].runs == ((400, 800),)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b'"rank":0', b'"rank":-1', "does not follow the schema at \\$.rank"),
        (b'"runs":[[0,400]]', b'"runs":[[0,404]]', "described by .* bytes, not by"),
        (b'"runs":[[0,400]]', b'"runs":[[0,400],[0,400]]', "its runs overlap or leave it"),
        (b'"runs":[[0,400]]', b'"runs":[[-1,400]]', "does not follow the schema"),
        (b'"shape":[30,10]', b'"shape":[1073741824,1073741824,1073741824]', "more than 2\\^60 bytes"),
        (b'"ranks":[]', b'"ranks":[3,2]', "are not sorted, or lack rank 0"),
        (b'"ranks":[]', b'"ranks":[1]', "are not sorted, or lack rank 0"),
        (b'"dtype":"F32"', b'"dtype":"F33"', "the dtype 'F33' is unknown"),
        (b'"content":"', b'"content":"*', "is not accepted"),
        (b'"version":1', b'"version":2', "its version is 2; accepted is 1"),
        (b'"kind":"hashbench-part"', b'"kind":"hashbench-manifest"', "does not follow the schema"),
        (b'"tensors":[', b'"tensors":[[[[[[[[', "nest more than 6 deep"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_a_part_is_checked_before_it_is_used(before: bytes, after: bytes, said: str) -> None:
    text = parts_of(VALUES, 3)[0].text()
    assert before in text
    with pytest.raises(PartError, match=said):
        parse_part(text.replace(before, after))


def test_a_part_without_a_group_says_when_it_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashbench.distributed.sharded.MAX_CONTENT", 1000)
    with pytest.raises(PartError, match="this rank has short pieces of every row: choose smaller chunks"):
        part({"a": Shard(torch.zeros(64, 8), (64, 16), (0, 0))}, rank=0)


class Folder:
    """A model of files, some large enough to be cut."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        generator = np.random.default_rng(5)
        for number, size in enumerate((0, 1, 100_000, 3_000_000)):
            (path / f"{number}.bin").write_bytes(generator.bytes(size))
        self.path = path
        self.manifest = hashbench.manifest(path, kernel="hashlib", chunk_size=1024)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "model")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_devices_find_the_same_roots(folder: Folder, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashbench.hashing.shared.SMALLEST_SHARE", 1 << 16)
    hashers = [Hasher(choose("hashlib", "1-thread"), 1024) for _ in range(count)]
    files = sorted(folder.path.iterdir())
    sources = [FileRange(path, 0, path.stat().st_size, path.stat()) for path in files]
    told: list[int] = []
    leaves: dict[int, dict[int, bytes]] = {number: {} for number in range(len(files))}

    def add(found: object) -> None:
        leaves[found.source][found.first] = found.hashes.tobytes()  # type: ignore[attr-defined]

    roots = SharedHasher(hashers).roots(sources, lambda done, total: told.append(done), add)
    assert roots == [folder.manifest.by_name[path.name].root for path in files]
    assert max(told) == sum(source.nbytes for source in sources)
    for number, path in enumerate(files):
        found = b"".join(hashes for _, hashes in sorted(leaves[number].items()))
        assert found == b"".join(merkle_tree_hash([chunk], "sha256") for chunk in chunks_of(path.read_bytes(), 1024))


def test_several_devices_are_named_with_commas(folder: Folder) -> None:
    threads = [device.id for device in hashbench.kernels.kernel_class("hashlib").devices()]
    assert hashbench.verify(folder.path, folder.manifest, kernel="hashlib", device=",".join(threads)).ok
    assert hashbench.verify(folder.path, folder.manifest, kernel="hashlib", device="all").ok
    with pytest.raises(ValueError, match="unknown device 'x'"):
        hashbench.verify(folder.path, folder.manifest, kernel="hashlib", device="1-thread,x")


class Other:
    """A team of two, of which the other says what the test wants."""

    index, count, local_index, local_count = 0, 2, 0, 1

    def __init__(self, said: bytes | None) -> None:
        self.said = said

    def gather(self, data: bytes) -> list[bytes]:
        return [data, data if self.said is None else self.said]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"\x01no such file", "process 1 cannot go on: no such file"),
        (b"\x00" + bytes(32), "process 1 sees other files than process 0"),
    ],
    ids=["failed", "other files"],
)
def test_what_fails_in_one_process_fails_in_all(folder: Folder, said: bytes, error: str) -> None:
    with pytest.raises(TeamError, match=error):
        hashbench.verify(folder.path, folder.manifest, kernel="hashlib", team=Other(said))


class Both:
    """A team of two threads, of which this is one's view."""

    count, local_index, local_count = 2, 0, 1

    def __init__(self, index: int, said: list[bytes], meeting: Barrier) -> None:
        self.index, self._said, self._meeting = index, said, meeting

    def gather(self, data: bytes) -> list[bytes]:
        self._said[self.index] = data
        self._meeting.wait(30)
        return list(self._said)


def together(folders: list[Path], manifest: Manifest) -> list[bool]:
    said, meeting = [b"", b""], Barrier(2)
    teams = [Both(index, said, meeting) for index in range(2)]
    with ThreadPoolExecutor(2) as pool:
        return list(
            pool.map(lambda at, team: hashbench.verify(at, manifest, kernel="hashlib", team=team).ok, folders, teams)
        )


def test_processes_that_see_copies_of_their_own_have_no_verdict(folder: Folder, tmp_path: Path) -> None:
    assert together([folder.path, folder.path], folder.manifest) == [True, True]
    copied = tmp_path / "copy"
    shutil.copytree(folder.path, copied)  # with all times that can be set
    data = bytearray((copied / "3.bin").read_bytes())
    data[0] ^= 1  # in whichever's share it is
    status = (copied / "3.bin").stat()
    (copied / "3.bin").write_bytes(data)
    os.utime(copied / "3.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(TeamError, match="each has its own copy"):
        together([folder.path, copied], folder.manifest)


def test_who_is_not_started_by_torchrun_waits_for_nobody(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(folder.manifest.text())
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ranks.items():
            patch.setenv(name, value)
        patch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        assert in_process("verify", "--kernel", "hashlib", folder.path, tmp_path / "m").returncode == 0


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return subprocess.run(
        [*command, "-m", "hashbench", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )


THREADS_AFTER_A_TEAM = """if True:
    from pathlib import Path
    from hashbench.distributed.launched import launched

    def threads():
        return {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}

    before = threads()
    with launched() as team:
        assert team.gather(b"said") == [b"said"]
        assert any("gloo" in name for name in threads() - before)
    print(*threads() - before)
"""


def test_no_thread_outlives_a_team() -> None:
    """One of gloo that wants Python's lock when the interpreter ends would abort the process."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    command = [sys.executable, "-c", THREADS_AFTER_A_TEAM]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | alone | {"GLOO_SOCKET_IFNAME": "lo"}
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip()


@pytest.mark.thorough
def test_torchrun_shares_the_hashing(folder: Folder, tmp_path: Path) -> None:
    output = tmp_path / "manifest.json"
    options = ("--kernel", "hashlib", "--chunk-size", "1KiB")
    done = torchrun("manifest", str(folder.path), "-o", str(output), *options)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == folder.manifest.text()
    assert done.stdout.count("sha256 root") == 1
    done = torchrun("verify", str(folder.path), str(output), "--kernel", "hashlib")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("verified") == 1
    (folder.path / "1.bin").write_bytes(b"\xff")
    done = torchrun("verify", str(folder.path), str(output), "--kernel", "hashlib")
    assert done.returncode == 1
    assert done.stdout.count("differs: 1.bin") == 1
