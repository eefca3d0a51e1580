"""How bytes reach a kernel: selection of a kernel and device; files, streams and ranges in bounded memory.

May import hashbench.merkle and hashbench.kernels.
"""
