"""Models in memory, as PyTorch has them: hashed and verified in place.

May import hashbench.model and what is below it.
"""

from hashbench.torch.modules import manifest, verify
from hashbench.torch.monitor import Monitor
from hashbench.torch.places import kernel_for
from hashbench.torch.tensors import TensorError
from hashbench.torch.watch import Finding

__all__ = ["Finding", "Monitor", "TensorError", "kernel_for", "manifest", "verify"]
