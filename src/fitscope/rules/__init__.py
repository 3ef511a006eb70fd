"""Rules read a run's statistics and give findings.

One rule a file, each a function from a run to findings. The registry lists them.
"""
