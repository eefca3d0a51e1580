"""Mutated PyTorch checkpoints: torch.load, in each of its ways, finds the tensors that hashbench finds, or refuses.

What hashbench refuses is not looked at further.
"""

from __future__ import annotations

import pickletools
import random
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples
from pytorch_files import LIMIT, Member, archive, loads, our_tensors, stock_loads

from hashbench.model.pytorch_archive import read_archive
from hashbench.model.pytorch_checkpoint import PyTorchError

Random = random.Random
Archive = dict[str, bytes]

INSTRUCTIONS = b"N\x88\x89]}()t\x85\x86\x87aesuRbQ.2010"
NUMBERS = [0, 1, 2, 3, 4, 5, 8, 16, 64, 127, 128, 255]
LARGE = [0, 1, 8, 0x10, 0x800, 0x808, 0xFFFF, LIMIT - 1, LIMIT]


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@cache
def originals() -> list[bytes]:
    """Checkpoints that PyTorch wrote."""
    import io

    import torch

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    rows = torch.arange(12, dtype=torch.int16).reshape(3, 4)
    contents = [
        module.state_dict(),
        {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3},
        [rows, {"T": rows.T, "tied": rows, "part": rows[1, 1:]}, (torch.empty(0), torch.nn.Parameter(torch.ones(2)))],
        OrderedDict(a=torch.ones(2).to(torch.float8_e5m2), b={1: torch.arange(3), "1": torch.arange(4)}),
    ]
    files = []
    for content in contents:
        stream = io.BytesIO()
        torch.save(content, stream)
        files.append(stream.getvalue())
    return files


@cache
def records(data: bytes) -> Archive:
    """The records of an archive."""
    import os

    descriptor = os.memfd_create("archive")
    try:
        os.write(descriptor, data)
        found = read_archive(descriptor, len(data))
    finally:
        os.close(descriptor)
    return {name: data[record.offset : record.offset + record.nbytes] for name, record in found.items()}


def flipped(rng: Random, data: bytes) -> bytes:
    """Bits flipped, most of them in what describes the tensors."""
    changed = bytearray(data)
    pickled = data.index(b"data.pkl"), data.index(b"PK\7\x08")
    directory = data.index(b"PK\1\2"), len(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        begin, end = rng.choice([(0, len(data)), pickled, pickled, directory])
        changed[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: Random, data: bytes) -> bytes:
    """Bytes left out, doubled, inserted or cut off."""
    begin, end = sorted(rng.randrange(len(data)) for _ in range(2))
    end = min(end, begin + rng.choice([1, 4, 64, len(data)]))
    return rng.choice(
        [
            data[:begin],
            data[:begin] + data[end:],
            data[:end] + data[begin:],
            data[:begin] + rng.randbytes(rng.randrange(1, 9)) + data[begin:],
            data + data[begin:end],
        ]
    )


def spliced(rng: Random, data: bytes) -> bytes:
    """Two archives in one file."""
    other = rng.choice(originals())
    place, second = rng.randrange(len(data)), rng.randrange(len(other))
    return rng.choice(
        [data + other, data[:place] + other[second:], data[:place] + other + data[place:], other[:second] + data]
    )


def rewritten_pickle(rng: Random, data: bytes) -> bytes:
    """Instructions of the pickle left out, exchanged, doubled or changed, in an archive that is in order."""
    parts = dict(records(data))
    pickled = parts["data.pkl"]
    begins = [at for _, _, at in pickletools.genops(pickled) if at is not None]
    code = [pickled[begin:end] for begin, end in zip(begins, [*begins[1:], len(pickled)], strict=True)]
    for _ in range(rng.choice([1, 1, 2, 3])):
        place, other = rng.randrange(1, len(code)), rng.randrange(1, len(code))
        match rng.randrange(6):
            case 0:
                code[place : place + rng.choice([1, 1, 3])] = []
            case 1:
                code[place], code[other] = code[other], code[place]
            case 2:
                code[place:place] = code[other : other + rng.choice([1, 3, 20])]
            case 3:
                code[place:place] = [bytes([rng.choice(INSTRUCTIONS)])]
            case 4:
                numbers = [at for at, part in enumerate(code) if part[:1] in (b"K", b"h")]
                code[rng.choice(numbers)] = rng.choice([b"K", b"h"]) + bytes([rng.choice(NUMBERS)])
            case _:
                same = [at for at, part in enumerate(code) if part[:1] == code[place][:1]]
                code[place] = code[rng.choice(same)]
        if len(code) < 2:
            break
    parts["data.pkl"] = b"".join(code)
    return archive([Member(name, value) for name, value in parts.items()])


def rewritten_archive(rng: Random, data: bytes) -> bytes:
    """Fields of headers, of entries and of the end changed, records exchanged, doubled or moved."""
    members = [Member(name, value) for name, value in records(data).items()]
    options: dict[str, Any] = {"zip64": rng.random() < 0.8}
    for _ in range(rng.choice([1, 1, 2])):
        member, other = rng.choice(members), rng.choice(members)
        fields: dict[str, Any] = rng.choice([member.header, member.entry])
        match rng.randrange(8):
            case 0:
                fields[rng.choice(["flags", "method"])] = rng.choice([0, 1, 8, 0x800, 0x808])
            case 1:
                fields[rng.choice(["crc", "stored", "size"])] = rng.choice([*LARGE, len(member.data or b"")])  # type: ignore[arg-type]
            case 2:
                fields["extra"] = rng.choice([b"", b"FB\0\0", b"FB\1\0Z", struct.pack("<2HQ", 1, 8, 16), b"x" * 5])
            case 3:
                member.entry[rng.choice(["attributes", "disk", "header"])] = rng.choice([*LARGE, rng.randrange(2000)])
            case 4:
                name = f"archive/{other.name}".encode()
                fields["name"] = rng.choice([name, name.upper(), name + b"\0"])
            case 5:
                member.data, other.data = other.data, member.data
            case 6:
                members.insert(rng.randrange(len(members) + 1), members.pop(rng.randrange(len(members))))
            case _:
                member.align = rng.choice([1, 16, 64, 128])
        if rng.random() < 0.2:
            record = rng.choice(["end", "end64"])
            names = ["disk", "start", "on_disk", "count", "nbytes", "begin", *(["comment"] if record == "end" else [])]
            options[record] = {rng.choice(names): rng.choice([0, 1, 2, 0xFFFF])}
    try:
        return archive(members, **options)
    except struct.error:  # a value that is too large for its field
        return data


MUTATIONS: dict[str, Callable[[Random, bytes], bytes]] = {
    mutate.__name__: mutate for mutate in (flipped, cut, spliced, rewritten_pickle, rewritten_archive)
}


def outcome(path: Path, mutation: str, seed: int) -> str:
    """What becomes of one mutated checkpoint, which must not be that PyTorch finds other tensors."""
    rng = Random(f"{mutation} {seed}")
    path.write_bytes(MUTATIONS[mutation](rng, rng.choice(originals())))
    try:
        ours = our_tensors(path)
    except PyTorchError:
        return "refused"
    found = stock_loads(path)
    # What was read consists of functions that are allowed, and of no others.
    found |= {
        "any": loads(path, weights_only=False, mmap=False),
        "any mapped": loads(path, weights_only=False, mmap=True),
    }
    for way, theirs in found.items():
        assert theirs is None or theirs == ours, f"{way}: {mutation} {seed}"
    return "accepted" if all(theirs is not None for theirs in found.values()) else "PyTorch refuses"


@pytest.mark.covers("torch")
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_no_loader_finds_other_tensors(tmp_path: Path, torch: Any, mutation: str) -> None:
    @settings(examples(30), suppress_health_check=[HealthCheck.too_slow])
    @given(seed=st.integers(0, (1 << 32) - 1))
    def check(seed: int) -> None:
        outcome(tmp_path / "model.pt", mutation, seed)

    check()


@pytest.mark.thorough
@pytest.mark.covers("torch")
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_no_loader_finds_other_tensors_in_many(tmp_path: Path, torch: Any, mutation: str) -> None:
    found = Counter(outcome(tmp_path / "model.pt", mutation, seed) for seed in range(20_000))
    print(mutation, dict(found))
    assert found["accepted"] > 100 or mutation in ("cut", "spliced")
    assert found["refused"] > 1000
