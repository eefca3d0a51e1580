"""What each extra installs where: Intel's packages exist for x86-64 alone, and everything else installs elsewhere."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def installed(extra: str, machine: str) -> set[str]:
    """The packages that an extra asks for itself on a machine."""
    required = map(Requirement, EXTRAS[extra])
    return {one.name for one in required if one.marker is None or one.marker.evaluate({"platform_machine": machine})}


def is_intels(name: str) -> bool:
    return name in ("dpctl", "dpnp") or name.startswith("intel-")


@pytest.mark.parametrize("extra", EXTRAS)
def test_intels_packages_are_left_out_where_they_do_not_exist(extra: str) -> None:
    x86, arm = installed(extra, "x86_64"), installed(extra, "aarch64")
    assert not any(map(is_intels, arm))
    assert {name for name in x86 if not is_intels(name)} == arm


def test_the_runtime_for_cpus_comes_with_what_it_needs_of_intels_compiler() -> None:
    """intel-opencl-rt needs libimf, libsvml, libirng and libintlc without requiring their package."""
    assert {"intel-opencl-rt", "intel-cmplr-lib-rt"} <= installed("opencl", "x86_64")


def test_the_recipe_names_the_compiler_that_its_extra_installs() -> None:
    from hashbench.kernels.spirv_recipe import ZIGLANG

    assert EXTRAS["spirv"] == [f"ziglang=={ZIGLANG}"]
