"""What a model is on disk: its files and tensors, its manifest, and proofs of inclusion.

May import hashbench.hashing and what is below it.
"""
