"""Keys of the original repositories (`--options model.ckpt=...`), and the corresponding keys here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chatbridge.common.errors import Problem

KEYS_HERE = {
    "model.ckpt": "run.init_from",
    "run.resume_ckpt_path": "run.init_from for the trained tensors of another run, run.resume for the same run",
    "model.llama_model": "model.language.weights (a Hugging Face model folder)",
    "model.low_resource": "model.language.load_in_8bit",
    "model.vit_model": "model.encoders.<name>.weights",
    "model.vit_precision": "run.precision",
    "model.beats_path": "model.encoders.<name>.weights",
    "model.q_former_model": "model.bridges.<name>.weights",
    "model.num_query_token": "model.bridges.<name>.num_queries",
    "model.freeze_vit": "model.trainable (patterns of trainable tensors; all others are frozen)",
    "model.freeze_qformer": "model.trainable (patterns of trainable tensors; all others are frozen)",
    "model.max_txt_len": "data.max_tokens",
    "model.end_sym": "data.template (the template ends each answer)",
    "model.prompt_path": "data.template",
    "model.prompt_template": "data.template",
    "model.arch": "model.encoders, model.bridges and model.language",
    "run.init_lr": "run.optimizer.lr",
    "run.min_lr": "run.schedule.min_lr",
    "run.warmup_lr": "run.schedule.warmup_lr",
    "run.warmup_steps": "run.schedule.warmup_steps",
    "run.lr_sched": "run.schedule.kind",
    "run.weight_decay": "run.optimizer.weight_decay",
    "run.num_workers": "data.num_workers",
    "run.amp": "run.precision",
    "datasets": "data.sources",
}


def with_keys_here(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems; unknown keys of the originals get the key of the same setting here as a hint."""
    return [_with_key_here(problem) for problem in problems]


def _with_key_here(problem: Problem) -> Problem:
    found = KEYS_HERE.get(problem.path)
    if found is None:
        return problem
    hint = f"the original's {problem.path} is {found} here"
    return replace(problem, nearest=None, hint=hint)
