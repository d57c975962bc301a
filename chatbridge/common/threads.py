"""The number of threads that one torch operation may use in this process."""

from __future__ import annotations

import os

import torch

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # set by users and by torchrun


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(num_workers: int) -> int:
    """Return the default threads of a process: the cores not used by its loader workers, at least one.

    The ranks of a machine share its cores. An operation waits for its slowest thread, so a thread on a core that a
    loader worker uses slows down every operation.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, num_cores() // ranks - num_workers)


def use_threads(wanted: int | None, num_workers: int = 0) -> int:
    """Set the number of threads of this process and return it.

    wanted       None: OMP_NUM_THREADS or MKL_NUM_THREADS if set, otherwise `default_threads`
    num_workers  number of loader workers of this process
    """
    if wanted is None and any(os.environ.get(name) for name in VARIABLES):
        return torch.get_num_threads()
    torch.set_num_threads(default_threads(num_workers) if wanted is None else wanted)
    return torch.get_num_threads()


def one_thread() -> None:
    """Limit a worker process to one thread, since workers already run in parallel; libraries loaded later included."""
    for name in VARIABLES:
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
