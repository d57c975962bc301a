"""The training loop. Its parts are built by the caller; it only loops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.common.errors import DataError, TrainingError, some
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import number
from chatbridge.common.types import Batch, LossSum
from chatbridge.runners import OTHER_RANKS
from chatbridge.runners.best import Scores, task_scores
from chatbridge.runners.checkpoint import Checkpointer, TrainState
from chatbridge.runners.config import RunConfig
from chatbridge.runners.frozen_check import SHOWN, FrozenCheck
from chatbridge.runners.learning_check import LearningCheck
from chatbridge.runners.optim import Schedule, learning_rates, set_lr
from chatbridge.runners.parallel import Parallel
from chatbridge.runners.progress import Progress, StepResult
from chatbridge.runners.step_loss import ONE_STREAM, LossOfSteps
from chatbridge.runners.stop_signal import StopSignal
from chatbridge.runners.validation import PREFIX, Validator
from chatbridge.runners.watchers import Phase, Watcher, Watchers
from chatbridge.tasks.evaluator import METRICS, Evaluator

log = get_logger(__name__)


class Steps(Protocol):
    """Iterates over the micro-batches of one rank, step by step; `close` ends the loader's workers."""

    def __iter__(self) -> Iterator[list[Batch]]: ...
    def close(self) -> object: ...


class Runner:
    """One rank of a training run.

    loader      (start, stop) -> this rank's micro-batches for each step from start to stop - 1
    parallel    the model on all ranks, and the gradients of its trainable parameters
    validator   runs every `config.validate_every` steps and after the last one; None: never
    evaluator   runs every `evaluate_every` steps and after the last one; None: never
    watchers    told of every phase and every finished step
    streams     mix "joint": stream -> factor on its mean loss; None: the data have no streams
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loader: Callable[[int, int], Steps],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        parallel: Parallel,
        checkpointer: Checkpointer,
        progress: Progress,
        evaluator: Evaluator | None,
        dist: Dist,
        config: RunConfig,
        state: TrainState,
        validator: Validator | None = None,
        watchers: Sequence[Watcher] = (),
        streams: Mapping[str, float] | None = None,
    ) -> None:
        self.model = model
        self.loader = loader
        self.optimizer = optimizer
        self.schedule = schedule
        self.parallel = parallel
        self.checkpointer = checkpointer
        self.progress = progress
        self.validator = validator
        self.evaluator = evaluator
        self.scores = Scores(config.output_dir, config.best_by, config.patience, dist)
        self.dist = dist
        self.config = config
        self.state = state
        self.watchers = Watchers(watchers)
        self.loss_of_steps = LossOfSteps(dist, config.loss_mean, streams or ONE_STREAM)
        self.first_step = state.step  # of this process

    def train(self) -> int:
        """Train from the state's step to the last one; returns the exit code: 0, or 130 / 143 after a stop signal.

        raises  TrainingError (loss not finite, no gradient, a frozen tensor changed), DataError (failure budget spent)
        """
        with self.progress.open(self.state.step):
            self.scores.open(self.state.step)
            if self.state.step >= self.config.last_step:
                log.info("nothing left to train: the run has finished step %d", self.state.step)
            elif self.scores.is_over:
                log.info(
                    "nothing left to train: the run ended early, at step %d: %s", self.state.step, self.scores.reason
                )
            elif code := self._steps():
                return code
            if self.scores.is_over or self.state.step == self.config.max_steps:
                self._measure(is_end=True)
            else:
                self.progress.outcome = "stopped"  # by run.stop_at
        return 0

    def _steps(self) -> int:
        """Run the remaining steps, fewer if the scores end the run; returns 0, or the exit code after a stop signal."""
        self.model.train()
        self.first_step = self.state.step
        if self.first_step:
            self._measure()  # a stop or a kill may have come between the checkpoint and its validation
        frozen_check: FrozenCheck | None = FrozenCheck(self.model, self.parallel.parameters)
        is_unproven = self.first_step == 0  # every gradient so far was zero
        learning_check = LearningCheck(self.parallel.parameters, self.state.sizes, self.config.max_steps, self.dist)
        loader = self.loader(self.state.step, self.config.last_step)
        with StopSignal() as stop, self.watchers, closing(loader) as steps:
            for batches in self.progress.waiting(self._synchronized(steps)):
                self.watchers.batches(batches)
                result = self.train_step(self.state.step, batches)
                if frozen_check is not None and result.lr > 0:
                    self._check_frozen(frozen_check, result)
                    frozen_check = None
                is_unproven = is_unproven and learning_check.update(result)
                self._update_state(result)
                if not self.dist.all_true(not stop.requested):
                    return self._stop(stop)
                self._save()
                self._measure()
                if self.scores.is_over:
                    self._end_early()
                    break
        return 0

    def _synchronized(self, steps: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """The same steps; a DataError on one rank is raised on every rank, so that none waits for it."""
        iterator = iter(steps)
        self.dist.barrier()  # every rank has read the failure log of earlier launches before one appends to it
        while True:
            batches, problem = None, None
            self._phase("data")
            try:
                batches = next(iterator, None)
            except DataError as error:
                problem = str(error)
            self._phase("collective")
            if not self.dist.all_true(problem is None):
                problems = dict.fromkeys(message for message in self.dist.gather(problem) if message)
                if self.state.step > self.first_step:
                    self.checkpointer.save(self.state)  # keep the steps finished so far
                raise DataError(self._on_rank_0("\n".join(problems)))
            if batches is None:
                return
            yield batches

    def train_step(self, step: int, batches: list[Batch]) -> StepResult:
        """One optimizer step on the mean loss per supervised token over all micro-batches of all ranks.

        raises  TrainingError on every rank, before any weight changes, if loss or gradient of one is not finite
        """
        lr = self.schedule(step)
        set_lr(self.optimizer, lr)
        self.parallel.zero()
        mean = self.loss_of_steps.of(batches)  # supervised tokens are summed over ranks, for each stream
        losses: list[LossSum] = []
        for micro, batch in enumerate(batches):
            self._seed_dropout(step, micro, batch.stream)
            self._phase("forward")
            loss: LossSum = self.model(batch.to(self.dist.device))
            self._phase("backward")
            self.parallel.backward(mean.part(micro, loss.total), is_last=micro == len(batches) - 1)
            losses.append(replace(loss, total=loss.total.detach()))
            self._clip_so_far(micro, len(batches))
        self._phase("collective")
        self.parallel.reduce()  # sum over ranks, once per step
        grad_norm = float(self.parallel.clip(self.config.clip_norm))
        total = mean.value(torch.stack([loss.total for loss in losses]).tolist())  # the device is read once
        if not self.dist.all_true(math.isfinite(grad_norm) and math.isfinite(total)):
            raise self._not_finite(step, batches, losses, grad_norm)
        self._phase("optimizer")
        self.optimizer.step()
        return StepResult(step + 1, total, grad_norm, lr, mean.supervised, batches, losses, mean.weight)

    def _clip_so_far(self, micro: int, count: int) -> None:
        """run.clip_every: micro clips what the gradient has so far after one micro-batch of every stream."""
        is_between = (micro + 1) % len(self.loss_of_steps.weights) == 0 and micro + 1 < count
        if self.config.clip_every == "micro" and is_between:
            self._phase("collective")
            self.parallel.clip_so_far(self.config.clip_norm)

    def _phase(self, name: Phase) -> None:
        self.watchers.phase(name, self.state.step)

    def _seed_dropout(self, step: int, micro: int, stream: str) -> None:
        """Make dropout a function of a micro-batch's index in its stream, not of earlier steps or its rank."""
        index = micro // len(self.loss_of_steps.weights) * self.dist.world_size + self.dist.rank
        purpose = f"dropout/{stream}" if stream else "dropout"
        torch.manual_seed(number(self.config.seed, purpose, step, index))

    def _check_frozen(self, frozen_check: FrozenCheck, result: StepResult) -> None:
        """After the first step of this process: exactly the trainable tensors have changed.

        In a resumed run the moments may leave a trainable tensor unchanged, so only frozen tensors are checked.
        """
        is_fresh = self.first_step == 0
        rates = learning_rates(self.optimizer, frozen_check.parameters)
        rates = rates if is_fresh else dict.fromkeys(rates, 0.0)
        unchanged = frozen_check.check(rates, self.config.optimizer.eps)
        if is_fresh and unchanged:
            listed = some(unchanged, SHOWN)
            reason = "it had none of their media, or their gates are still at 0"
            log.info("trainable, but not changed by the first step, because %s: %s", reason, listed)

    def _update_state(self, result: StepResult) -> None:
        samples = self.state.samples + sum(batch.num_conversations for batch in result.batches) * self.dist.world_size
        supervised = self.state.supervised + result.supervised
        self.state = replace(self.state, step=result.step, samples=samples, supervised=supervised)
        self.progress.update(result)
        self.watchers.step(result)

    def _save(self) -> None:
        if self.state.step == self.config.last_step or self.state.step % self.config.save_every == 0:
            self._phase("checkpoint")
            self.checkpointer.save(self.state)

    def _measure(self, is_end: bool = False) -> None:
        """Validate and evaluate what is due after this step, unless it was done before; keep the best checkpoint."""
        step, scores = self.state.step, {}
        is_due = is_end or ((every := self.config.validate_every) is not None and step % every == 0)
        if self.validator is not None and is_due and not self.scores.has(step, PREFIX):
            self._phase("evaluate")
            scores |= self.validator.run()
            self.parallel.release()
        every = self.evaluate_every
        if self.evaluator is not None and (is_end or (every is not None and step % every == 0)):
            self._phase("evaluate")
            scores |= self._evaluate(self.evaluator)
        if scores:
            self.progress.event(step, scores)
            if self.scores.add(step, scores):
                self._phase("checkpoint")
                self.scores.point_to(self.checkpointer.save(self.state))
                if self.dist.is_main:
                    self.checkpointer.prune()  # the one that was best

    @property
    def evaluate_every(self) -> int | None:
        """Steps between evaluations; None: only after the last one."""
        own = self.config.evaluate.every if self.config.evaluate is not None else None
        return own or (self.evaluator.config.every if self.evaluator is not None else None)

    def _evaluate(self, evaluator: Evaluator) -> dict[str, float]:
        """ "<task>/<score>" -> its value; empty if the scores of this step are known. Leaves the model in its mode."""
        folder = self.config.output_dir / "evaluation" / f"step_{self.state.step:06d}"
        if all(self.scores.has(self.state.step, f"{name}/") for name in evaluator.tasks):
            return {}
        if self.dist.all_true((folder / METRICS).is_file()):
            return task_scores(json.loads((folder / METRICS).read_text(encoding="utf-8")))
        was_training = self.model.training
        with self.parallel.gathered():
            # a run that was killed here resumes at this step, or moves the folder aside: answers so far can stay
            results = evaluator.run(
                folder, {name: getattr(self.state, name) for name in ("step", "samples", "supervised")}
            )
        self.model.train(was_training)
        return task_scores(results)

    def _end_early(self) -> None:
        path = self.checkpointer.save(self.state)
        log.info("ended early, after step %d: %s. Newest checkpoint: %s", self.state.step, self.scores.reason, path)

    def _stop(self, signal: StopSignal) -> int:
        self.progress.outcome = "stopped"
        path = self.checkpointer.save(self.state)
        log.info("stopped after step %d on request; %s resumes from %s", self.state.step, self._command, path)
        return signal.exit_code

    @property
    def _command(self) -> str:
        """The command that resumes from the newest checkpoint; run.resume with a path would use that path again."""
        return "the same command" + (" without run.resume" if isinstance(self.config.resume, Path) else "")

    def _not_finite(self, step: int, batches: list[Batch], losses: list[LossSum], grad_norm: float) -> TrainingError:
        """Write the conversations of the step on all ranks to a file; returns the error."""
        micros = [_describe(batch, loss) for batch, loss in zip(batches, losses, strict=True)]
        ranks = self.dist.gather(micros)
        path = self.config.output_dir / f"not_finite_{step + 1:06d}.json"
        if self.dist.is_main:
            record = {"step": step + 1, "grad_norm": repr(grad_norm), "ranks": ranks}
            replace_text(path, json.dumps(record, indent=1))
        bad = [f"rank {rank}" for rank, own in enumerate(ranks) if any(micro["is_bad"] for micro in own)]
        where = f"the loss of {', '.join(bad)}" if bad else "the gradient (but not the loss)"
        latest = self.checkpointer.latest()
        message = (
            f"step {step + 1}: {where} is not finite; no weight changed. The conversations of the step are in {path}: "
            f"check those with a loss of nan or inf, or lower run.optimizer.lr; {self._command} resumes from "
            f"{latest or 'the beginning'}."
        )
        return TrainingError(self._on_rank_0(message))

    def _on_rank_0(self, message: str) -> str:
        """The message on rank 0, a reference to it on the others."""
        return message if self.dist.is_main else OTHER_RANKS


def _describe(batch: Batch, loss: LossSum) -> dict[str, Any]:
    total = float(loss.total)
    return {
        "loss": repr(total),
        "is_bad": not math.isfinite(total),
        "supervised": loss.count,
        "ids": list(batch.sample_ids),
        "sources": list(batch.sources),
        "per_source": {source: repr(float(value)) for source, (value, _) in loss.per_source.items()},
    }
