"""A machine's description: what it holds, and what it must not say."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import hashbench
from hashbench.bench import machine
from hashbench.hashing import selection
from hashbench.kernels import Device


def test_a_description_names_the_hardware_and_nobody() -> None:
    described = machine.describe(selection.devices())
    text = json.dumps(described)
    assert described["cpu"]["name"]
    assert described["memory_bytes"] > 0
    assert "numpy" in described["packages"]
    assert {(d["kernel"], d["id"]) for d in described["devices"]} == {
        (d.kernel, d.id) for d in selection.devices() if d.unavailable is None
    }
    host = platform.node()
    assert not host or not re.search(rf"(?<!\w){re.escape(host)}(?!\w)", text)
    assert getpass.getuser() not in text.split('"')
    assert str(Path.home()) not in text
    assert str(Path(hashbench.__file__).parent) not in text


TURIN = {"family": 26, "model": 2, "stepping": 1}
CPU = Device("hashlib", "1-thread", "Intel(R) Xeon(R) Processor @ 2.80GHz", kind="cpu")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090"),
        ("Intel(R) Arc(TM) A770 Graphics", "intel-arc-a770"),
        ("../a b/c", "a-b-c"),
    ],
)
def test_a_machine_is_called_after_its_first_gpu(name: str, slug: str) -> None:
    gpu = Device("cupy", "0", name, kind="gpu")
    assert machine.slug([CPU, gpu, replace(gpu, name="another")]) == slug


@pytest.mark.parametrize(
    ("name", "generation", "cores", "slug"),
    [
        ("AMD EPYC 9654 96-Core Processor", TURIN, 192, "amd-epyc-9654-192-cores"),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", {}, 1, "intel-core-i7-8700-3.20ghz-1-core"),
        ("AMD EPYC", TURIN, 2, "amd-epyc-family-26-model-2-stepping-1-2-cores"),
        ("Intel(R) Xeon(R) Processor @ 2.80GHz", {"family": 6}, 2, "intel-xeon-2.80ghz-family-6-2-cores"),
        ("Intel(R) Xeon(R) Processor @ 2.80GHz", {}, 2, "intel-xeon-2.80ghz-2-cores"),
    ],
)
def test_a_machine_without_gpus_is_called_after_its_processor(
    monkeypatch: pytest.MonkeyPatch, name: str, generation: dict[str, int], cores: int, slug: str
) -> None:
    monkeypatch.setattr(machine, "_cpu_info", lambda: {"brand_raw": name, **generation})
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    unavailable = Device("cupy", "0", "NVIDIA H200", kind="gpu", unavailable="its driver is too old")
    assert machine.slug([CPU, unavailable]) == slug


def test_caches_are_those_that_data_goes_through(tmp_path: Path) -> None:
    listed = ("Data", "1", "48K"), ("Instruction", "1", "32K"), ("Unified", "2", "1024K"), ("Unified", "3", "unknown")
    for number, texts in enumerate(listed):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in zip(("type", "level", "size"), texts, strict=True):
            (folder / name).write_text(f"{text}\n")
    (tmp_path / "index4").mkdir()
    assert machine.cache_bytes(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20}
    assert machine.cache_bytes(tmp_path / "none") == {}


def test_the_commit_is_that_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "hashbench" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr(hashbench, "__file__", str(package))
    monkeypatch.delenv(machine.COMMIT_VARIABLE, raising=False)
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = machine.commit()
    assert len(clean) == 10
    int(clean, 16)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.csv").touch()
    assert machine.commit() == clean  # what is measured is not the code
    (package.parent / "new.py").touch()
    assert machine.commit() == f"{clean}-dirty"
    monkeypatch.setenv(machine.COMMIT_VARIABLE, "from the environment")
    assert machine.commit() == "from the environment"  # of a copy, whose repository is not its own


def test_without_a_repository_the_commit_is_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashbench, "__file__", str(tmp_path / "hashbench" / "__init__.py"))
    monkeypatch.delenv(machine.COMMIT_VARIABLE, raising=False)
    assert machine.commit()[0].isdigit()
