"""Models in memory, as PyTorch has them: hashed and verified in place.

May import hashbench.model and what is below it.
"""

from hashbench.torch.modules import TensorError, kernel_for, manifest, verify

__all__ = ["TensorError", "kernel_for", "manifest", "verify"]
