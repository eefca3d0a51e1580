"""The names of `import hashbench`: which there are, and that they cost nothing before they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import hashbench
from hashbench.hashing.hasher import hash_file
from hashbench.hashing.selection import choose
from hashbench.model.disk import manifest, verify


def test_the_names_are_those_of_their_modules() -> None:
    assert (hashbench.choose, hashbench.hash_file) == (choose, hash_file)
    assert (hashbench.manifest, hashbench.verify) == (manifest, verify)
    assert dir(hashbench) == ["choose", "hash_file", "manifest", "torch", "verify"]
    with pytest.raises(AttributeError, match="module 'hashbench' has no attribute 'merkle_tree_hash'"):
        hashbench.merkle_tree_hash  # noqa: B018


def test_models_in_memory_are_an_attribute_too() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import hashbench.torch

    assert hashbench.torch is sys.modules["hashbench.torch"]


def imported(program: str) -> set[str]:
    program = f"import json, sys\n{program}\nprint(json.dumps(sorted(sys.modules)))"
    return {name.partition(".")[0] for name in json.loads(subprocess.check_output([sys.executable, "-c", program]))}


def test_nothing_is_imported_before_it_is_used() -> None:
    assert "numpy" not in imported("import hashbench")
    names = imported("from hashbench import choose, hash_file, manifest, verify")
    assert "numpy" in names
    heavy = {"cuda", "cupy", "dpctl", "dpnp", "matplotlib", "numba", "pandas", "pyopencl", "rich", "scipy", "torch"}
    assert names.isdisjoint(heavy)
