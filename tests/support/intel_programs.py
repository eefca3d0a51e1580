"""What Intel's compiler makes of the device code for its GPUs."""

from __future__ import annotations

from hashbench.limits import intel_assembly
from hashbench.limits.machine_code import BlockCode

ALU = {"pvc": {"sha256": 1951, "sha384": 4579}, "dg2": {"sha256": 1955, "sha384": 9019}}
"""Instructions of a block, of OpenCL C by ocloc 22.43.24595. Of a loop that is not the main one, there are others."""

OTHER_COMPILERS = 1.04
"""What another compiler, or the way through SPIR-V, may need."""


def held(code: BlockCode, algorithm: str, target: str) -> None:
    """Checks the instructions of a block, and that none of them accesses scratch memory."""
    units = intel_assembly.by_unit(code)
    assert 0.98 * ALU[target][algorithm] <= units["ALU"] <= OTHER_COMPILERS * ALU[target][algorithm]
    assert units["scratch"] == 0
