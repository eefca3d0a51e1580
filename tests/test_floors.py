"""The rooms of the house: imports point down only, and a framework that is missing breaks nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

FRAMEWORKS = ("cuda", "cupy", "dpctl", "dpnp", "numba", "pyopencl", "torch", "triton")

KERNELS, MERKLE, HASHING, MODEL = "hashbench.kernels", "hashbench.merkle", "hashbench.hashing", "hashbench.model"
TORCH, DISTRIBUTED, TRUST = "hashbench.torch", "hashbench.distributed", "hashbench.trust"
BENCH, LIMITS, REPORT = "hashbench.bench", "hashbench.limits", "hashbench.report"
CLI, EXPERIMENTS = "hashbench.cli", "hashbench.experiments"

DATA = (KERNELS, MERKLE, HASHING, MODEL)
"""From bytes to models, the lowest first."""

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    KERNELS: (),
    MERKLE: DATA[:1],
    HASHING: DATA[:2],
    MODEL: DATA[:3],
    TORCH: DATA,
    DISTRIBUTED: (*DATA, TORCH),
    TRUST: DATA,
    BENCH: DATA,
    LIMITS: (*DATA, BENCH),
    REPORT: (*DATA, BENCH, LIMITS),
    "hashbench": (*DATA, TORCH),
    CLI: (*DATA, TORCH, DISTRIBUTED, TRUST, BENCH, LIMITS, REPORT),
    EXPERIMENTS: (*DATA, TORCH, DISTRIBUTED, TRUST, BENCH, LIMITS, REPORT),
}
"""Every room of the house, and the rooms that it may import besides itself."""


def room_of(module: str) -> str | None:
    """The room that a module belongs to; None where it is not of this project."""
    rooms = (room for room in MAY_IMPORT if module == room or module.startswith(room + "."))
    return max(rooms, key=len, default=None)


def folder_of(room: str) -> Path:
    spec = find_spec(room)
    assert spec is not None
    return Path(str(spec.origin)).parent


def imported(source: str, package: str) -> set[str]:
    """The modules that a module of `package` imports anywhere in its source."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return names


def test_imports_are_found_in_every_form() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from .g import h\n    from .. import k"
    assert imported(source, "p.q") == {"a.b", "c", "c.d", "p.q", "p.q.e", "p.q.g", "p.q.g.h", "p", "p.k"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_down(room: str) -> None:
    modules = {path for path in folder_of(room).glob("*.py") if path.name != "__main__.py"}  # which starts the top
    assert modules
    accepted = {room, *MAY_IMPORT[room]}
    for module in sorted(modules):
        for name in imported(module.read_text(), room):
            found = room_of(name)
            # "from hashbench.kernels import x" and "import hashbench" name the package above on their way down.
            assert found is None or name == "hashbench" or found in accepted, f"{room}, {module.name}: {name} is above"


def test_every_folder_is_a_room() -> None:
    top = folder_of("hashbench")
    folders = {f"hashbench.{path.parent.name}" for path in top.glob("*/__init__.py")}
    assert folders | {"hashbench", KERNELS, EXPERIMENTS} == set(MAY_IMPORT)
    assert {path.name for path in top.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT.keys() - {"hashbench", TORCH}))
def test_a_room_says_what_it_is_for_and_what_it_may_import(room: str) -> None:
    text = import_module(room).__doc__
    assert text
    assert "May import" in text


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernels_import_no_framework() -> None:
    program = "import json, sys, hashbench, hashbench.kernels; print(json.dumps(sorted(sys.modules)))"
    modules = {name.partition(".")[0] for name in json.loads(run(program))}
    assert "hashbench" in modules
    assert modules.isdisjoint(FRAMEWORKS)


WITHOUT = """
import json, sys
for name in {missing!r}:
    sys.modules[name] = None  # makes its import fail
from hashbench.kernels import kernel_class
print(json.dumps({{name: [d.unavailable for d in kernel_class(name).devices()] for name in {kernels!r}}}))
"""


@pytest.mark.parametrize(
    ("missing", "kernels"),
    [
        (("cupy",), {"cupy": "CuPy"}),
        (("dpctl",), {"dpnp": "dpctl"}),
        (("pyopencl",), {"opencl": "pyopencl"}),
        (("torch",), {"triton": "torch"}),
        (("triton",), {"triton": "triton"}),
        (("numba",), {"numba-cpu": "umba", "numba-cuda": "umba"}),
        (
            FRAMEWORKS,
            {
                "cupy": "CuPy",
                "dpnp": "dpctl",
                "opencl": "pyopencl",
                "triton": "torch and triton",
                "numba-cpu": "umba",
                "numba-cuda": "umba",
            },
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_a_missing_framework_is_told(missing: tuple[str, ...], kernels: dict[str, str]) -> None:
    devices = json.loads(run(WITHOUT.format(missing=missing, kernels=["hashlib", *kernels])))
    assert None in devices["hashlib"]
    for kernel, word in kernels.items():
        (reason,) = devices[kernel]
        assert word in reason
        assert "install hashbench[" in reason
        assert "\n" not in reason
