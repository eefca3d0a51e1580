"""Models on disk: their tensors and files, manifests, verification, and inclusion proofs.

May import hashbench.hashing and what is below it.
"""
