"""How bytes reach a kernel: which kernel and device, and files, streams and ranges in bounded memory.

May import hashbench.merkle and hashbench.kernels.
"""
