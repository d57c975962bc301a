"""Keys of LAVIS and its forks (ChatBridge, MiniGPT-4), and the corresponding keys here: the one table of them.

A rejected key of theirs gets the key here as a hint; `chatbridge migrate` rewrites whole files with the same table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from chatbridge.common.errors import Problem

# taken: the same meaning; changed: the note says how it differs; not needed: something else here does it, nothing is
# lost; no equal: the note has the reason and the next step
Status = Literal["taken", "changed", "not needed", "no equal"]


@dataclass(frozen=True)
class OriginalKey:
    """What becomes of one key. here: the key here, perhaps with words after it; "" if there is none."""

    here: str = ""
    note: str = ""
    status: Status = "taken"

    @property
    def target(self) -> str:
        """The key here alone."""
        return self.here.split()[0].rstrip(",") if self.here else ""


def _changed(here: str, note: str) -> OriginalKey:
    return OriginalKey(here, note, "changed")


def _unneeded(note: str) -> OriginalKey:
    return OriginalKey("", note, "not needed")


def _none(note: str) -> OriginalKey:
    return OriginalKey("", note, "no equal")


_FREEZE = "model.trainable (patterns of trainable tensors; all others are frozen)"
_TORCHRUN = _unneeded("torchrun tells every process its rank and the number of ranks")
_SPLITS = _unneeded("a source or a task names the file of its split")
_UNUSED = _unneeded("the original does not use it")
_ANSWERS = "evaluation.tasks.<name>"

ORIGINAL_KEYS: dict[str, OriginalKey] = {
    "model.arch": _changed("model.encoders, model.bridges and model.language", "a model is a YAML of parts"),
    "model.model_type": _changed("base", "a base file names the model"),
    "model.ckpt": OriginalKey("run.init_from"),
    "model.llama_model": OriginalKey("model.language.weights (a Hugging Face model folder)"),
    "model.llm_model": OriginalKey("model.language.weights (a Hugging Face model folder)"),
    "model.opt_model": OriginalKey("model.language.weights (a Hugging Face model folder)"),
    "model.low_resource": _changed("model.language.load_in_8bit", "8 bit where bitsandbytes runs; the log says if not"),
    "model.device_8bit": _unneeded("the language model is on the GPU of the process (--gpu-id)"),
    "model.vit_model": OriginalKey("model.encoders.<name>.weights"),
    "model.vit_path": OriginalKey("model.encoders.<name>.weights"),
    "model.vit_precision": _changed("run.precision", "one dtype for the whole model: bf16 on a GPU, where it was fp16"),
    "model.image_size": OriginalKey("model.encoders.<name>.image_size"),
    "model.drop_path_rate": _none("frozen encoders have no drop path here; nothing to do if the encoder stays frozen"),
    "model.use_grad_checkpoint": OriginalKey("run.activation_checkpointing (names of components)"),
    "model.beats_path": OriginalKey("model.encoders.<name>.weights"),
    "model.has_qformer": OriginalKey("model.bridges (a qformer, or linear with join: 4)"),
    "model.q_former_model": OriginalKey("model.bridges.<name>.weights"),
    "model.num_query_token": OriginalKey("model.bridges.<name>.num_queries"),
    "model.drop": _changed("model.bridges.<name>.dropout", "true is a dropout of 0.1"),
    "model.freeze_vit": _changed(_FREEZE, "the pattern names what is trained"),
    "model.freeze_beat": _changed(_FREEZE, "the pattern names what is trained"),
    "model.freeze_qformer": _changed(_FREEZE, "the pattern names what is trained"),
    "model.max_txt_len": OriginalKey("data.max_tokens"),
    "model.end_sym": OriginalKey("data.template (the template ends each answer)"),
    "model.prompt": OriginalKey("data.sources.<name>.prompt"),
    "model.prompt_path": OriginalKey("data.template"),
    "model.prompt_template": OriginalKey("data.template"),
    "model.stage": _changed("data.template", "stage 1 is the template caption; stage 2 that of the language model"),
    "model.multi_sample": OriginalKey("model.bridges.<name>.temporal"),
    "model.max_context_len": _unneeded("the context length of the language model is the limit"),
    "model.load_pretrained": _unneeded("files that are named are read"),
    "model.load_finetuned": _unneeded("files that are named are read"),
    "model.pretrained": _none("name the file of each part instead"),
    "model.finetuned": _none("this file cannot be read; start from the parts, or from a run of yours"),
    "preprocess": _unneeded("preprocessing belongs to the encoder here (model.encoders.<name>)"),
    "env": _unneeded("it names the folder of downloads; paths are written out here"),
    "run.task": _changed("", "the command decides: train.py, demo.py or `chatbridge evaluate`"),
    "run.runner": _unneeded("there is one runner"),
    "run.lr_sched": OriginalKey("run.schedule.kind"),
    "run.init_lr": OriginalKey("run.optimizer.lr"),
    "run.min_lr": OriginalKey("run.schedule.min_lr"),
    "run.warmup_lr": OriginalKey("run.schedule.warmup_lr"),
    "run.warmup_steps": OriginalKey("run.schedule.warmup_steps"),
    "run.lr_decay_rate": OriginalKey("run.schedule.decay_rate"),
    "run.weight_decay": OriginalKey("run.optimizer.weight_decay"),
    "run.beta2": OriginalKey("run.optimizer.betas"),
    "run.lr_layer_decay": _none("give patterns their own learning rate: run.optimizer.groups"),
    "run.max_grad_norm": OriginalKey("run.clip_norm"),
    "run.grad_norm_clip": OriginalKey("run.clip_norm"),
    "run.max_epoch": OriginalKey("run.max_steps (max_epoch x iters_per_epoch), or run.max_epochs"),
    "run.iters_per_epoch": OriginalKey("run.max_steps (max_epoch x iters_per_epoch)"),
    "run.max_iters": OriginalKey("run.max_steps"),
    "run.iters_per_inner_epoch": OriginalKey("run.schedule.epoch_steps"),
    "run.batch_size_train": OriginalKey("run.micro_batch"),
    "run.batch_size_eval": OriginalKey("evaluation.tasks.<name>.batch_size"),
    "run.accum_grad_iters": _changed(
        "run.accumulate", "the loss is the mean over all micro-batches; MiniGPT-4 and ChatBridge take their sum"
    ),
    "run.num_workers": OriginalKey("data.num_workers"),
    "run.seed": OriginalKey("run.seed"),
    "run.output_dir": _changed("run.output_dir", "files are in this folder itself, not in one named by the time"),
    "run.log_freq": OriginalKey("run.log_every"),
    "run.save_freq": OriginalKey("run.save_every (steps)"),
    "run.val_freq": OriginalKey("run.validate_every or evaluation.every (steps)"),
    "run.amp": OriginalKey("run.precision"),
    "run.resume_ckpt_path": OriginalKey(
        "run.init_from for the trained tensors of another run, run.resume for the same run"
    ),
    "run.evaluate": _changed("", "the command decides: train.py, demo.py or `chatbridge evaluate`"),
    "run.train_splits": _SPLITS,
    "run.valid_splits": _SPLITS,
    "run.test_splits": _SPLITS,
    "run.device": _changed("run.device", "auto: the GPU if there is one, otherwise the CPU"),
    "run.world_size": _TORCHRUN,
    "run.dist_url": _TORCHRUN,
    "run.dist_backend": _TORCHRUN,
    "run.distributed": _TORCHRUN,
    "run.rank": _TORCHRUN,
    "run.gpu": _unneeded("torchrun, or --gpu-id N of one process"),
    "run.use_dist_eval_sampler": _unneeded("questions are divided over the ranks without repetition"),
    "run.wandb_log": OriginalKey("run.trackers (wandb)"),
    "run.job_name": OriginalKey("run.trackers (wandb: its name)"),
    "run.wandb_key": _changed("", "keys do not belong in a file: set the environment variable WANDB_API_KEY"),
    "run.prompt_path": _UNUSED,
    "run.valor_data_opts_path": OriginalKey("data.sources"),
    "run.train_dataset_ratios": OriginalKey("data.sources.<name>.weight"),
    "run.max_len": OriginalKey(f"{_ANSWERS}.max_new_tokens"),
    "run.min_len": OriginalKey(f"{_ANSWERS}.min_new_tokens"),
    "run.num_beams": OriginalKey(f"{_ANSWERS}.num_beams"),
    "run.length_penalty": OriginalKey(f"{_ANSWERS}.length_penalty"),
    "run.repetition_penalty": OriginalKey(f"{_ANSWERS}.repetition_penalty"),
    "run.prompt": OriginalKey(f"{_ANSWERS}.dataset.prompt"),
    "run.inference_method": OriginalKey(_ANSWERS),
    "run.num_ans_candidates": _none("answers are generated; `answer: likelihood` of the task choice ranks given ones"),
    "run.report_metric": _unneeded("every task reports its metrics"),
    "run.annotation_file": _unneeded("a task names the file of its references"),
    "run.name": _unneeded("the last part of run.output_dir names a run"),
    "run.save_path": OriginalKey("run.output_dir"),
    "datasets": OriginalKey("data.sources"),
    "evaluation_datasets": OriginalKey("evaluation.tasks"),
}

# Keys that mean something else, or the same, here: no hint is needed where they are accepted
_ALSO_HERE = ("run.seed", "run.output_dir", "run.evaluate", "run.device")
KEYS_HERE = {key: one.here for key, one in ORIGINAL_KEYS.items() if one.here and key not in _ALSO_HERE}


def with_keys_here(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems; unknown keys of the originals get the key of the same setting here as a hint."""
    return [_with_key_here(problem) for problem in problems]


def _with_key_here(problem: Problem) -> Problem:
    one = ORIGINAL_KEYS.get(problem.path)
    if one is None or problem.path in _ALSO_HERE:
        return problem
    if one.here:
        hint = f"the original's {problem.path} is {one.here} here"
    else:
        hint = f"the original's {problem.path} has no key here: {one.note}"
    if problem.path in ("model.arch", "datasets"):
        hint += "\n`chatbridge migrate FILE` rewrites a whole file of LAVIS, MiniGPT-4 or ChatBridge"
    return replace(problem, nearest=None, hint=hint)
