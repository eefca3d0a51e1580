"""What measurements say of each claim, and the HTML page that shows it.

May import hashbench.limits and what is below it.
"""
