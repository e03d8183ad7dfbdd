"""Training of heads through the fairness layer, in parts: rows and batches, losses, the loop, checkpoints, sweeps.

`auditkit.tune_head` is the way in; `frontiers.sweep` runs it over many tolerances.
"""
