"""What a GPU allows: architectures, execution pipes, roofline, and predictions from machine code.

May import hashbench.bench and what is below it.
"""
