"""Two ranks; each case compares their reduced gradient with one big batch. Run by tests/runners/test_replicate.py."""

from __future__ import annotations

import torch

from chatbridge.common import dist as ranks
from chatbridge.runners.parallel.replicate import Replicated
from tests.helpers.tiny_parts import TinyModel, batch_of, loss_of, rows, trainable
from tests.helpers.tolerances import FP32

# Per case: micro-batches of rank 0, micro-batches of rank 1, as (seed, conversations, modality).
CASES = {
    "the same media everywhere": ([(1, 3, "image")], [(2, 2, "image")]),
    "a rank without audio": ([(1, 3, "image"), (2, 1, "image")], [(3, 2, "image"), (4, 2, "audio")]),
    "audio early on one rank, last on none": ([(1, 2, "audio"), (2, 3, "image")], [(3, 2, "image"), (4, 1, "image")]),
    "text-only on one rank": ([(1, 2, None), (2, 2, None)], [(3, 2, "image"), (4, 2, "audio")]),
    "different media in every micro-batch": ([(1, 2, "image"), (2, 2, None)], [(3, 2, "audio"), (4, 4, "image")]),
    "audio on no rank": ([(1, 2, "image")], [(2, 2, None)]),
}


def main() -> None:
    dist = ranks.start("cpu")
    for name, micros in CASES.items():
        model = TinyModel()
        gradients = Replicated(trainable(model), dist)
        gradients.zero()
        own = [batch_of(rows(*micro)) for micro in micros[dist.rank]]
        count = dist.sum(sum(batch.num_supervised for batch in own))
        for batch in own:
            (model(batch).total / count).backward()
        gradients.reduce()

        whole = TinyModel()
        total, of_all = loss_of(whole, [batch_of(rows(*micro)) for part in micros for micro in part])
        assert count == of_all, name
        (total / of_all).backward()
        for key, parameter in trainable(whole).items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradients.views[key], expected, rtol=FP32, atol=1e-6, msg=f"{name}: {key}")
        norms = dist.gather(float(gradients.clip(None)))
        assert norms[0] == norms[1] > 0, name
        if dist.is_main:
            print(f"ok: {name}")
    ranks.stop()


if __name__ == "__main__":
    main()
