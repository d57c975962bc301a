"""One step of a real model on the miniature world with any batching, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.dist import Dist
from chatbridge.common.types import Batch
from chatbridge.datasets.batching import MicroBatchDraws, to_batch
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.sample_reader import SampleReader
from chatbridge.experiment.build import build_model, prepare_packing
from chatbridge.experiment.data import batching_of, open_data, run_loader, run_mixture
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.models.chat_model import ChatModel
from chatbridge.runners.config import RunConfig
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import jpeg, write_tar

BATCHINGS: dict[str, dict[str, Any]] = {
    "padded": {},
    "grouped": {"batching": "grouped"},
    "packed": {"batching": "packed", "token_budget": 256},
}
SPLITS = ((1, 4), (2, 2), (4, 1))  # ranks, micro-batches
GLOBAL_BATCH = 16
COLORS = ("red", "green", "blue")


def world_of_lengths(folder: Path) -> MiniWorld:
    """The miniature world, with captions of one to twenty-five words."""
    world = MiniWorld(folder)
    members: list[tuple[str, bytes | str]] = []
    for number in range(24):
        words = " ".join(COLORS[(number + at) % 3] for at in range(1 + number * 7 % 25))
        members += [(f"{number}.jpg", jpeg(number * 10)), (f"{number}.txt", words)]
    write_tar(folder / "pairs.tar", members)
    return world


class BatchingWorld:
    """A model whose bridges and language model train, and the batches of its run.

    settings   of `data`
    """

    def __init__(self, world: MiniWorld, folder: Path, settings: dict[str, Any], **run: Any) -> None:
        config = world.experiment(folder / "run", **run)
        config["data"] |= settings
        config["model"]["trainable"] = ["bridges.*", "language.*"]
        opened = open_config(Experiment, write_yaml(folder / "train.yaml", config))
        self.data = open_data(opened)
        self.config = opened.config
        torch.manual_seed(0)
        built = build_model(self.config.model)
        prepare_packing(built.model, False, self.config.data.batching)
        built.load_weights(torch.device("cpu"), "fp32")
        self.model: ChatModel = built.model
        self.layout = built.layout(self.config.template, self.config.data.max_tokens)

    def mixture(self, run: RunConfig, num_ranks: int) -> Mixture:
        return run_mixture(self.config.data, run, self.data.sources, num_ranks)

    def loader(self, num_ranks: int, accumulate: int, rank: int, **settings: Any) -> Any:
        """(start, stop) -> the steps of one rank of GLOBAL_BATCH conversations."""
        changes = {"micro_batch": GLOBAL_BATCH // num_ranks // accumulate, "accumulate": accumulate, **settings}
        run = RunConfig(output_dir=self.config.run.output_dir, max_steps=100, **changes)
        dist, processors = Dist(rank, num_ranks), self.model.processors(train=True)
        log, quarantine = FailureLog(None, {}), Quarantine()
        return run_loader(
            self.config.data, run, dist, self.mixture(run, num_ranks), self.layout, processors, log, quarantine
        )

    def steps(self, num_ranks: int, accumulate: int, step: int = 0) -> list[list[Batch]]:
        """The micro-batches of every rank in one step, made as the loader's workers make them."""
        run = RunConfig(output_dir=self.config.run.output_dir, max_steps=100, micro_batch=GLOBAL_BATCH, accumulate=1)
        mixture, batching = self.mixture(run, 1), batching_of(self.config.data, self.layout)
        read = SampleReader(mixture, self.layout, self.model.processors(train=True), run.seed)
        found = []
        for rank in range(num_ranks):
            draws = MicroBatchDraws(mixture, self.layout, run.seed, batching, rank, num_ranks, accumulate)
            found.append([to_batch(read(own), batching, self.layout, stream) for stream, own in draws(step)])
        return found


def loss_and_gradients(model: ChatModel, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    """The mean loss per supervised token, and its gradients summed over all micro-batches of all ranks."""
    model.eval()  # no dropout
    model.zero_grad(set_to_none=True)
    supervised, total = sum(batch.num_supervised for batch in batches), 0.0
    for batch in batches:
        loss = model(batch)
        (loss.total / supervised).backward()
        total += float(loss.total.detach())
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return total / supervised, gradients


def largest_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The norm of the difference of all gradients together, relative to that of the wanted ones."""
    assert found.keys() == wanted.keys()
    difference = sum(float((found[name] - one).double().square().sum()) for name, one in wanted.items())
    return (difference / sum(float(one.double().square().sum()) for one in wanted.values())) ** 0.5
