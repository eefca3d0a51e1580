"""The three floors: imports point down only, and a framework that is missing breaks nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hashbench
import hashbench.experiments
import hashbench.kernels

FRAMEWORKS = ("cuda", "cupy", "dpctl", "dpnp", "numba", "pyopencl", "torch")

FLOORS = {
    "hashbench.kernels": Path(hashbench.kernels.__file__).parent,
    "hashbench": Path(hashbench.__file__).parent,
    "hashbench.experiments": Path(hashbench.experiments.__file__).parent,
}
"""Each floor's package and folder, the lowest first."""


def floor_of(module: str) -> str | None:
    """The floor that a module belongs to; None where it is not of this project."""
    for floor in ("hashbench.kernels", "hashbench.experiments", "hashbench"):
        if module == floor or module.startswith(floor + "."):
            return floor
    return None


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


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor: str) -> None:
    floors = list(FLOORS)
    above = floors[floors.index(floor) + 1 :]
    modules = sorted(FLOORS[floor].glob("*.py"))
    assert modules
    for module in modules:
        for name in imported(module.read_text(), floor):
            # "from hashbench import kernels" names the package above on its way down.
            assert floor_of(name) not in above or name == "hashbench", f"{floor}, {module.name}: {name} is above"


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
from hashbench.kernels import KERNELS, kernel_class
print(json.dumps({{name: [d.unavailable for d in kernel_class(name).devices()] for name in KERNELS}}))
"""


@pytest.mark.parametrize(
    ("missing", "kernels"),
    [
        (("cupy",), {"cupy": "CuPy"}),
        (("dpctl",), {"dpnp": "dpctl"}),
        (("pyopencl",), {"opencl": "pyopencl"}),
        (("numba",), {"numba-cuda": "umba"}),
        (FRAMEWORKS, {"cupy": "CuPy", "dpnp": "dpctl", "opencl": "pyopencl", "numba-cuda": "umba"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_a_missing_framework_is_told(missing: tuple[str, ...], kernels: dict[str, str]) -> None:
    devices = json.loads(run(WITHOUT.format(missing=missing)))
    assert None in devices["hashlib"]
    for kernel, word in kernels.items():
        (reason,) = devices[kernel]
        assert word in reason
        assert "install hashbench[" in reason
        assert "\n" not in reason
