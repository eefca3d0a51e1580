"""Models in memory, as PyTorch holds them: hashed and verified where their tensors lie.

May import hashbench.model and what is below it.
"""

from hashbench.torch.modules import TensorError, kernel_for, manifest, verify

__all__ = ["TensorError", "kernel_for", "manifest", "verify"]
