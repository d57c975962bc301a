"""The section run: steps, learning rate, precision, processes."""

from __future__ import annotations

import sys
from typing import Any

from chatbridge.cli.migrate.families import RUN_ANSWER_KEYS
from chatbridge.cli.migrate.migration import PLACEHOLDER, Migration
from chatbridge.config.original_keys import ORIGINAL_KEYS
from chatbridge.config.origins import MISSING

KINDS = {"linear_warmup_cosine_lr": "lavis_cosine", "linear_warmup_step_lr": "lavis_step", "constant_lr": "constant"}
TRAINING_ONLY = (
    "lr_sched", "init_lr", "min_lr", "warmup_lr", "warmup_steps", "lr_decay_rate", "weight_decay", "beta2", "max_epoch",
    "iters_per_epoch", "max_iters", "iters_per_inner_epoch", "batch_size_train", "accum_grad_iters", "save_freq",
    "val_freq", "log_freq", "lr_layer_decay", "max_grad_norm", "grad_norm_clip", "train_dataset_ratios",
)  # fmt: skip


def run_rows(m: Migration, stem: str) -> None:
    """Rows of the section run, those of data files and answers excepted.

    stem   name of the new file, for a run folder where the old file names none
    """
    _common(m, stem)
    if m.is_training:
        _learning_rate(m)
        _steps(m)
        _training(m)
    else:
        for key in TRAINING_ONLY:
            m.not_needed(f"run.{key}", "nothing is trained")
    for key, one in ORIGINAL_KEYS.items():  # those that need no rule of their own
        if key.startswith("run.") and m.has(key) and not one.here:
            if one.status == "no equal":
                m.no_equal(key)
            elif one.status == "not needed":
                m.not_needed(key)
            else:
                m.changed(key, "", one.note)


def _common(m: Migration, stem: str) -> None:
    m.move("run.seed", "run.seed")
    for key in ("run.output_dir", "run.save_path"):
        if m.has(key):
            _output_dir(m, key, stem)
    if "run.output_dir" not in m.target.settings:
        m.imply("run.output_dir", f"runs/{stem}", "a run has a folder of its own here")
    if (amp := m.value("run.amp")) is not None:
        note = "bf16 on a GPU, fp32 on a CPU; it was fp16 with a loss scaler" if amp else ""
        if amp:
            m.changed("run.amp", "run.precision: auto", note)
        else:
            m.move("run.amp", "run.precision", value="fp32")
    _device(m)
    if m.value("run.resume_ckpt_path") is None:
        m.not_needed("run.resume_ckpt_path", "none is named; a run resumes from its own folder (run.resume)")
    elif m.has("run.resume_ckpt_path"):
        note = "weights only: the optimizer of such a file is not read, so the run starts at step 0"
        m.path("run.resume_ckpt_path", "run.init_from", note)
    if m.has("run.num_workers"):
        path = "data.num_workers" if m.is_training else "evaluation.num_workers"
        m.move("run.num_workers", path, "" if m.is_training else "for reading questions")
    _trackers(m)


def _output_dir(m: Migration, key: str, stem: str) -> None:
    text = str(m.value(key))
    if PLACEHOLDER.search(text):
        m.changed(key, m.set("run.output_dir", f"runs/{stem}"), "the old file has a placeholder")
    else:
        m.move(key, "run.output_dir", ORIGINAL_KEYS["run.output_dir"].note, value=text.rstrip("/"))


def _device(m: Migration) -> None:
    if not m.has("run.device"):
        return
    if str(m.value("run.device")) == "cpu":
        m.move("run.device", "run.device")
    else:
        m.changed("run.device", "run.device: auto", ORIGINAL_KEYS["run.device"].note)


def _trackers(m: Migration) -> None:
    wants, name = m.value("run.wandb_log"), m.value("run.job_name")
    if wants and m.is_training:
        from importlib.util import find_spec

        if find_spec("wandb") is None:
            note = "curves go to TensorBoard; for Weights & Biases install it and set run.trackers: {wandb: {}}"
            m.no_equal("run.wandb_log", note)
            m.no_equal("run.job_name", "the name of the run there: run.trackers.wandb.name")
            return
        m.changed("run.wandb_log", m.set("run.trackers.wandb", {"name": name} if name else {}), "beside TensorBoard")
        if m.has("run.job_name"):
            m.taken("run.job_name", f"run.trackers.wandb.name: {name}")
    m.not_needed("run.wandb_log", "off")
    m.not_needed("run.job_name", "the last part of run.output_dir names a run")


def _learning_rate(m: Migration) -> None:
    kind = m.value("run.lr_sched")
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        m.no_equal("run.lr_sched", f"not a schedule of LAVIS; run.schedule.kind is one of {', '.join(KINDS.values())}")
    elif kind is not None:
        note = ""
        if m.family.is_lavis and kind == "linear_warmup_cosine_lr":
            note = "the rate changes at every step; LAVIS changed it once per epoch, and warmed up in the first alone"
        m.move("run.lr_sched", "run.schedule.kind", note, value=KINDS[kind])
    m.move("run.init_lr", "run.optimizer.lr")
    m.move("run.weight_decay", "run.optimizer.weight_decay")
    _move_iterations(m, "run.warmup_steps", "run.schedule.warmup_steps")
    _warmup_lr(m)
    m.move("run.min_lr", "run.schedule.min_lr")
    if m.has("run.lr_decay_rate"):
        if m.value("run.lr_decay_rate") is None or kind != "linear_warmup_step_lr":
            m.not_needed("run.lr_decay_rate", "only the schedule by steps uses it")
        else:
            m.move("run.lr_decay_rate", "run.schedule.decay_rate")
    if m.has("run.beta2"):
        m.move("run.beta2", "run.optimizer.betas", value=[0.9, m.value("run.beta2")])
    if not m.family.is_chatbridge:
        why = "biases and norms have no decay, as in the optimizer of the original"
        m.imply("run.optimizer.decay_vectors", False, why)


def _warmup_lr(m: Migration) -> None:
    low = m.value("run.warmup_lr")
    if isinstance(low, (int, float)) and low < 0:
        m.move("run.warmup_lr", "run.schedule.warmup_lr", "a negative one means init_lr", value=_number(m, "init_lr"))
    elif m.has("run.warmup_lr"):
        m.move("run.warmup_lr", "run.schedule.warmup_lr")
    elif (peak := _number(m, "init_lr")) is not None:
        m.imply("run.schedule.warmup_lr", peak, "without run.warmup_lr the original starts at init_lr")


def _number(m: Migration, key: str) -> Any:
    return m.original.get("run", key)


def _steps(m: Migration) -> None:
    epochs, per_epoch = _number(m, "max_epoch"), _number(m, "iters_per_epoch")
    total, inner = _number(m, "max_iters"), _number(m, "iters_per_inner_epoch")
    if _whole(total):
        _move_iterations(m, "run.max_iters", "run.max_steps")
        if _whole(inner):
            _move_iterations(m, "run.iters_per_inner_epoch", "run.schedule.epoch_steps")
            _save_every(m, _steps_of(m, inner))
        m.not_needed("run.max_epoch", "run.max_iters counts")
    elif _whole(epochs) and _whole(per_epoch):
        steps = _steps_of(m, per_epoch)
        here = m.set("run.max_steps", int(epochs) * steps)
        m.taken("run.max_epoch", f"{here} (max_epoch x {steps} steps of the optimizer)")
        here = f"{here}; {m.set('run.schedule.epoch_steps', steps)}"
        if note := _counted(m):
            m.changed("run.iters_per_epoch", here, note)
        else:
            m.taken("run.iters_per_epoch", here)
        _save_every(m, steps)
    elif _whole(epochs):
        note = "as many conversations as its sources have samples, so often; LAVIS counts passes of its loader"
        m.move("run.max_epoch", "run.max_epochs", note, value=int(epochs))
    else:
        m.imply("run.max_steps", MISSING, "the old file has no length: run.max_epoch with run.iters_per_epoch")


def _whole(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value <= sys.maxsize and value == int(value)


def _steps_of(m: Migration, iterations: Any) -> int:
    """Steps of the optimizer in so many iterations of the original, at least 1."""
    return max(1, int(iterations) // m.accumulate)


def _counted(m: Migration) -> str:
    return f"in steps of the optimizer, of {m.accumulate} iterations each" if m.accumulate > 1 else ""


def _move_iterations(m: Migration, key: str, path: str) -> None:
    """A number of iterations as one of steps."""
    given = m.value(key)
    if _whole(given):
        m.move(key, path, _counted(m), _steps_of(m, given))
    else:
        m.move(key, path)


def _save_every(m: Migration, epoch: int) -> None:
    every = m.value("run.save_freq")
    if _whole(every):
        m.changed(
            "run.save_freq", m.set("run.save_every", int(every) * epoch), "in steps; the newest two are kept (run.keep)"
        )
        return
    m.not_needed("run.save_freq", "the last step has a checkpoint, and run.best keeps the best one")
    m.imply("run.save_every", epoch, "a checkpoint after every epoch; the newest two are kept (run.keep)")


def _training(m: Migration) -> None:
    m.move("run.batch_size_train", "run.micro_batch")
    if m.has("run.accum_grad_iters"):
        if m.value("run.accum_grad_iters") in (1, None):
            m.taken("run.accum_grad_iters", "run.accumulate: 1")
        elif m.family.is_lavis:
            m.move("run.accum_grad_iters", "run.accumulate")
        else:
            m.move("run.accum_grad_iters", "run.accumulate", ORIGINAL_KEYS["run.accum_grad_iters"].note)
    _move_iterations(m, "run.log_freq", "run.log_every")
    for key in RUN_ANSWER_KEYS:
        m.not_needed(f"run.{key}", "of answers: tasks of a later evaluation have their own settings")
    m.not_needed("run.batch_size_eval", "tasks of a later evaluation have their own batch_size")
    m.not_needed("run.save_freq", "counted in epochs; set run.save_every, in steps")
    m.not_needed("run.val_freq", "counted in epochs; set run.validate_every or evaluation.every, in steps")
    clips = [key for key in ("run.max_grad_norm", "run.grad_norm_clip") if m.value(key)]
    for key in clips:
        m.move(key, "run.clip_norm")
    if not clips:
        m.imply("run.clip_norm", None, "the original does not clip gradients")
