"""Models made byte by byte in a folder, their manifests, and the verdict of the command line."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import in_process

from hashbench.model.manifest import read_manifest

Files = Mapping[str, bytes]
"""The content of files, by path."""


def safetensors_file(tensors: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of tensors of bytes, as the library writes it."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def index_of(shards: Mapping[str, list[str]]) -> bytes:
    """An index: the names of the tensors in each file."""
    return json.dumps({"metadata": {}, "weight_map": {name: file for file in shards for name in shards[file]}}).encode()


def write(folder: Path, files: Files) -> Path:
    """Writes files, and the folders that they are in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@dataclass(frozen=True)
class Verdict:
    """What `hashbench verify` answers.

    Attributes:
        code: the exit code.
        output: the lines of its standard output.
        errors: those of its standard error.
    """

    code: int
    output: list[str]
    errors: list[str]

    def names(self, kind: str) -> list[str]:
        """The names in the lines of one kind: "differs", "missing", "extra"."""
        return [
            line.removeprefix(f"{kind}: ").partition(": ")[0] for line in self.output if line.startswith(f"{kind}: ")
        ]


@dataclass(frozen=True)
class Trusted:
    """A manifest whose root is trusted.

    Attributes:
        path: its file.
        root: the root.
        notes: what was said when it was made.
    """

    path: Path
    root: str
    notes: str = ""

    def verdict_on(self, model: Path, *options: str) -> Verdict:
        """Verifies a model with the trusted root."""
        done = in_process("verify", "--kernel", "hashlib", model, self.path, "--root", self.root, *options)
        return Verdict(done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines())


def trust(model: Path, *options: str, path: Path | None = None) -> Trusted:
    """Makes the manifest of a model, beside it unless `path` says where."""
    path = path or model.with_name(f"{model.name}.manifest")
    done = in_process("manifest", "--kernel", "hashlib", model, "-o", path, *options)
    assert done.returncode == 0, done.stderr.decode()
    return Trusted(path, read_manifest(path).root.hex(), done.stderr.decode())
