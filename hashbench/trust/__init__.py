"""What vouches for a root: signatures, statements, evidence of a platform, and their appraisal.

May import hashbench.model and what is below it.
"""
