"""The training loop and its parts: optimizer, gradients across ranks, checkpoints, progress, run folder."""

OTHER_RANKS = "stopped together with rank 0, which reports the reason"  # message of errors on the ranks after 0
