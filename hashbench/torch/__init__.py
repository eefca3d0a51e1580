"""Models in memory, as PyTorch has them: loaded, hashed, verified in place and watched.

May import hashbench.model and what is below it.
"""

from hashbench.torch.loading import iterate, load, verified
from hashbench.torch.memory import Portion
from hashbench.torch.modules import manifest, verify
from hashbench.torch.monitor import Monitor
from hashbench.torch.places import kernel_for
from hashbench.torch.tensors import TensorError
from hashbench.torch.watch import Finding

__all__ = [
    "Finding",
    "Monitor",
    "Portion",
    "TensorError",
    "iterate",
    "kernel_for",
    "load",
    "manifest",
    "verified",
    "verify",
]
