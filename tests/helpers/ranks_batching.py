"""Two ranks with two micro-batches each: their reduced gradient is that of one big batch, with every batching.

Run by tests/runners/test_batching.py: ranks_batching.py WORLD FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import torch

from chatbridge.common import dist as ranks
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.runners.parallel.replicate import Replicated
from tests.helpers.batching_world import BATCHINGS, BatchingWorld, largest_difference, loss_and_gradients
from tests.helpers.mini_world import MiniWorld

RELATIVE = 1e-6  # fp32
ACCUMULATE = 2


def main(world: MiniWorld, folder: Path) -> None:
    dist = ranks.start("cpu")
    folder = folder / f"rank{dist.rank}"
    whole = BatchingWorld(world, folder, {})
    [[big]] = whole.steps(1, 1)
    loss, wanted = loss_and_gradients(whole.model, [big])
    for name, settings in BATCHINGS.items():
        own = BatchingWorld(world, folder, settings)
        own.model.eval()  # no dropout
        gradients = Replicated(trainable_parameters(own.model), dist)
        gradients.zero()
        with own.loader(dist.world_size, ACCUMULATE, dist.rank)(0, 1) as loader:
            [batches] = list(loader)
        supervised = dist.sum(sum(batch.num_supervised for batch in batches))
        assert supervised == big.num_supervised and len(batches) == ACCUMULATE
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            found = own.model(batch)
            gradients.backward(found.total / supervised, is_last=number == ACCUMULATE)
            total += float(found.total.detach())
        gradients.reduce()
        assert abs(dist.sum(total) / supervised - loss) < RELATIVE * loss, name
        used = {key: one for key, one in gradients.views.items() if key in wanted}
        assert largest_difference(used, wanted) < RELATIVE, name
        modalities = dist.gather([sorted(batch.media) for batch in batches])
        if dist.is_main:
            print(f"ok: {name} {modalities}")
    ranks.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    existing = cast("MiniWorld", object.__new__(MiniWorld))
    existing.folder = Path(sys.argv[1])
    main(existing, Path(sys.argv[2]))
