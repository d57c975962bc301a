"""The run section of a YAML: output folder, device, steps, optimizer, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch

from chatbridge.common.errors import Problem
from chatbridge.common.rendezvous import restart_count
from chatbridge.config.schema import Exists, Folder, Formerly, Range
from chatbridge.models.manifest_check import ModelFrom
from chatbridge.runners.optim import OptimizerConfig, ScheduleConfig
from chatbridge.runners.step_loss import LossMean
from chatbridge.runners.trackers.config import TrackersConfig

NO_LIMIT = 10**12  # steps: max_steps where only max_epochs is set, until the sources are open
Precision = Literal["auto", "fp32", "bf16"]


def ranks_planned() -> int:
    """Number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The autocast dtype; `auto` is bfloat16 on a GPU that computes in it. Trainable parameters are float32 anyway."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Settings that training and evaluation share."""

    # run folder: resolved.yaml, metrics.jsonl, checkpoints, TensorBoard files; for example runs/mine
    output_dir: Annotated[Path, Folder()]
    seed: int = 42  # every random stream of the run derives from it
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if available
    precision: Precision = "auto"  # autocast dtype; auto: bf16 on a GPU that supports it, fp32 on a CPU
    # exceptions to `precision`: pattern of components -> fp32 or bf16, for example {encoders.vision: fp32}; the last
    # pattern that matches applies. Their frozen parameters are stored in it
    compute_dtype: dict[str, Literal["fp32", "bf16"]] = field(default_factory=dict)
    # CPU threads per operation and rank; null: OMP_NUM_THREADS if it is set, otherwise the cores of the machine divided
    # by its ranks, minus the loader workers. 1 is the fastest on cores that other programs use
    threads: Annotated[int, Range(low=1)] | None = None
    # trained tensors to start from (training) or to evaluate: a checkpoint or run folder of ChatBridge, or a released
    # file of MiniGPT-4, ChatBridge, ChatBind, Multimodal-GPT or TextBind (.pth, .pt, .bin), or a model folder of
    # ChatBind
    init_from: Annotated[Path, Exists(), Formerly("ckpt", "load_ckpt_path")] | None = None
    # which model settings apply where this YAML and the checkpoint of init_from differ (outside training, also of the
    # template); null: a difference is an error with a table
    model_from: ModelFrom | None = None


@dataclass(frozen=True, kw_only=True)
class BestConfig:
    """The score by which the best checkpoint is chosen."""

    # validation/loss, validation/<a source>, or <a task>/<a score of it>, as scores.jsonl of a run lists them
    metric: str = "validation/loss"
    # which value is better; null: min for validation losses and for scores such as the word error rate, else max
    mode: Literal["min", "max"] | None = None

    @property
    def is_validation(self) -> bool:
        return self.metric.startswith("validation/")

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is better than an earlier one; an equal one is not."""
        is_min = self.is_validation if self.mode is None else self.mode == "min"
        return value < than if is_min else value > than


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The evaluations during a training: when, of which tasks, and on how many of their questions."""

    every: Annotated[int, Range(low=1)] | None = None  # steps between evaluations; null: evaluation.every
    tasks: tuple[str, ...] = ()  # names of evaluation.tasks; []: all of them
    # ask at most so many questions of a task, counted and chosen like `limit` of its data set, so every evaluation of
    # the run asks the same ones; null: all. The last evaluation asks no more: `chatbridge evaluate` asks all
    limit: Annotated[int, Range(low=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """How `run.parallel: shard` spreads the decoder layers of the language model over the ranks."""

    # free the gathered weights of a layer after its forward, and gather them again for its backward; false: keep them,
    # which takes the memory of the whole language model and saves one of the two exchanges
    reshard_after_forward: bool = True
    # sum gradients over ranks after every micro-batch, or once per step, which saves exchanges and keeps the gradients
    # of all trainable layers on every rank in between
    reduce: Literal["micro", "step"] = "micro"
    # cpu: the rows of a rank, their gradients and their moments are in the memory of the CPU, and the optimizer runs
    # there; weights travel to the GPU layer by layer. FSDP2 offers all of it together, or none. No effect on a CPU
    offload: Literal["none", "cpu"] = "none"


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """The steps of which a profile is written to output_dir/profile."""

    start: Annotated[int, Range(low=0)] = 10  # finished steps before the first one; the first steps are slower
    steps: Annotated[int, Range(low=1, high=100)] = 3  # a trace has about 1 MB per step and part


@dataclass(frozen=True, kw_only=True)
class RunConfig(ComputeConfig):
    """A training run. The global batch is micro_batch * accumulate * number of ranks."""

    # optimizer steps of the run (iters_per_epoch * max_epoch of LAVIS); needed unless max_epochs is set
    max_steps: Annotated[int, Range(low=1), Formerly("iters_per_epoch", "max_epoch")] = NO_LIMIT
    # the run ends once it has drawn so many times as many conversations as all its sources have samples together (those
    # with a weight, without held-out ones), rounded up to a step. How often that passes over one source follows from
    # its weight: --check shows it; with `weight: size` it is max_epochs for each. With max_steps, the smaller counts
    max_epochs: Annotated[float, Range(above=0, high=1_000_000)] | None = None
    micro_batch: Annotated[int, Range(low=1), Formerly("batch_size", "batch_size_train")] = 8  # per rank and micro-step
    accumulate: Annotated[int, Range(low=1), Formerly("accum_grad_iters")] = 1  # micro-batches per step and rank
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_norm: Annotated[float, Range(above=0)] | None = 1.0  # maximum norm of all gradients together; null: no limit
    # step: clip the gradient of the whole step. micro: also what has been accumulated so far, after every micro-batch
    # (in mix joint after one of every stream), as in the published Multimodal-GPT; ranks exchange gradients each time
    clip_every: Literal["step", "micro"] = "step"
    # token: the loss is the mean per supervised token over all micro-batches of all ranks. micro_batch: the mean of
    # their means, as in the published training loops, where tokens of long answers count less. Joint: of each stream
    loss_mean: LossMean = "token"
    log_every: Annotated[int, Range(low=1), Formerly("log_freq")] = 10  # steps per line of the log and of metrics.jsonl
    save_every: Annotated[int, Range(low=1)] = 1000  # steps between checkpoints; the last step always has one
    keep: Annotated[int, Range(low=1)] = 2  # number of checkpoints to keep
    resume: Literal["auto", "never"] | Path = "auto"  # auto: from the newest checkpoint of output_dir; or a path
    stop_at: Annotated[int, Range(low=1)] | None = None  # save and exit after this step, to resume later
    # steps between validations: the loss on the held-out samples of data.validation, per source; the last step always
    # has one. null: never
    validate_every: Annotated[int, Range(low=1)] | None = None
    evaluate: EvaluateConfig | None = None  # on slices of the tasks; null: whole tasks, as evaluation.every says
    # the checkpoint with the best score is kept beside the newest `keep`, and the file `best` in output_dir names it
    best: BestConfig | None = None
    # end the run once the score of `best` (default: validation/loss) was no better so many times in a row; null: never
    patience: Annotated[int, Range(low=1)] | None = None
    profile: ProfileConfig | None = None  # write a trace and a table of the time of some steps; null: none
    # Weights & Biases and MLflow, beside TensorBoard; keys come from the environment only
    trackers: TrackersConfig | None = None
    # MB of logits (fp32) that the loss computes at once, so those of all supervised points never exist together; null:
    # 24 on a CPU, 256 on a GPU
    loss_chunk_mb: Annotated[int, Range(low=1)] | None = None
    # replicate: every rank holds the whole model. shard: the decoder layers of the language model are spread over the
    # ranks (FSDP2), for one that is trained in full or too large for a GPU; everything else is on every rank
    parallel: Literal["replicate", "shard"] = "replicate"
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    # Longest time without progress, seconds: then the log names the rank and the phase that hang, and the run ends (see
    # on_stall). Three times as long for a checkpoint, 30 times for an evaluation; null: no limit
    stall_timeout_s: Annotated[float, Range(above=0)] | None = 1200.0
    # stop: write Python stacks and end all ranks with exit code 75, so torchrun --max-restarts resumes; warn: only the
    # stacks
    on_stall: Literal["stop", "warn"] = "stop"
    # Components whose layers keep only their input for the backward pass and compute the rest again there, about 30 %
    # more time for a fraction of the memory: patterns such as language, "bridges.*", encoders.vision, fusion
    activation_checkpointing: tuple[str, ...] = ()
    # Components whose layers torch.compile translates at the first step, which then takes minutes; a CPU needs a C++
    # compiler, a GPU triton. Results differ by rounding, and dropout draws other numbers
    compile: tuple[str, ...] = ()

    def problems(self) -> Iterable[Problem]:
        """Settings that contradict each other, and a checkpoint that does not exist."""
        if self.max_steps == NO_LIMIT and self.max_epochs is None:
            yield Problem("max_steps", "is missing; put a whole number of at least 1 here, or set run.max_epochs")
        if self.schedule.kind in ("cosine", "linear", "lavis_cosine") and self.schedule.warmup_steps >= self.max_steps:
            message = f"is {self.schedule.warmup_steps}, but the run has {self.max_steps} steps (run.max_steps)"
            yield Problem("schedule.warmup_steps", message, hint="the warm-up must be shorter than the run")
        if self.schedule.min_lr > self.optimizer.lr:
            message = f"is {self.schedule.min_lr}, above run.optimizer.lr, which is {self.optimizer.lr}"
            yield Problem("schedule.min_lr", message)
        if self.clip_every == "micro" and self.clip_norm is None:
            hint = "set run.clip_norm, for example to 1.0, or remove clip_every"
            yield Problem("clip_every", "is micro, but run.clip_norm is null: nothing is clipped", hint=hint)
        if self.clip_every == "micro" and self.parallel == "shard" and self.sharding.reduce == "step":
            message = "is micro, but run.sharding.reduce is step: gradients so far are not summed over ranks"
            yield Problem("clip_every", message, hint="set run.sharding.reduce: micro")
        if self.profile is not None and self.profile.start + self.profile.steps > self.last_step:
            message = f"ends after step {self.profile.start + self.profile.steps}, but the run after {self.last_step}"
            yield Problem("profile.start", message, hint="profile earlier steps")
        if isinstance(self.resume, Path) and not self.resume.exists() and not restart_count():
            message = f"{self.resume} does not exist"
            yield Problem("resume", message, allowed=("auto", "never", "the path of a checkpoint"))

    @property
    def best_by(self) -> BestConfig | None:
        """The score that decides on the best checkpoint and on an early end."""
        return BestConfig() if self.best is None and self.patience is not None else self.best

    @property
    def last_step(self) -> int:
        """The last step of this process: stop_at, or max_steps."""
        return min(self.max_steps, self.stop_at or self.max_steps)
