"""How many threads one operation of torch may use in this process."""

from __future__ import annotations

import os

import torch

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # what people and torchrun set


def num_cores() -> int:
    """Cores this process may run on, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(num_workers: int) -> int:
    """The threads of one process when nothing is set: the cores that are left beside its loader workers, at least one.

    Cores are shared by the ranks of a machine. An operation waits for the slowest of its threads, so a thread on a core
    that a loader worker keeps busy makes every operation wait for that worker.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, num_cores() // ranks - num_workers)


def use_threads(wanted: int | None, num_workers: int = 0) -> int:
    """Set the threads of this process; returns how many there are now.

    wanted       None: what OMP_NUM_THREADS or MKL_NUM_THREADS say, otherwise `default_threads`
    num_workers  processes that this one starts to read its data
    """
    if wanted is None and any(os.environ.get(name) for name in VARIABLES):
        return torch.get_num_threads()
    torch.set_num_threads(default_threads(num_workers) if wanted is None else wanted)
    return torch.get_num_threads()


def one_thread() -> None:
    """For a worker process: workers are the parallelism. Also for the libraries that it loads from now on."""
    for name in VARIABLES:
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
