"""Run every case of a folder; every file is reported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from chatbridge.common.errors import nearest
from tests.parity.golden import Case, Check, read_golden, read_sidecar

HERE = "tests.parity"
CASES = {  # name of the case -> (module and function, whether tensors belong to it)
    "chatbridge_eva_vit": ("vision.eva_vit", True),
    "chatbridge_eva_vit_posinterp": ("vision.eva_vit", True),
    "chatbridge_ln_vision": ("vision.ln_vision", True),
    "chatbridge_qformer": ("bridge.qformer", True),
    "chatbridge_beats": ("audio.beats", True),
    "chatbridge_kaldi_fbank": ("audio.kaldi_fbank", True),
    "chatbridge_audio_mapper": ("audio.audio_mapper", True),
    "chatbridge_image_preprocess": ("images.image_preprocess", True),
    "chatbridge_tiny": ("whole_model.tiny", True),
    "chatbridge_frame_sampling": ("images.frame_sampling", False),
    "chatbridge_audio_slicing": ("audio.audio_slicing", False),
    "chatbridge_prompt_layout": ("token_sequences.prompt_layout", False),
    "chatbridge_conversation_format": ("token_sequences.conversation_format", False),
    "chatbridge_text_preprocess": ("token_sequences.text_preprocess", False),
    "chatbridge_lr_schedule": ("learning_rates.lr_schedule", False),
    "multis_chatbridge": ("multis.multis", False),
    "minigpt4_stage1": ("minigpt4.rows", False),
    "minigpt4_stage2": ("minigpt4.rows", False),
    "minigpt4_multi_image": ("minigpt4.rows", False),
    "minigpt4_v0_code": ("minigpt4.rows", False),
    "minigpt4_chat": ("minigpt4.chat", False),
    "minigpt4_lr": ("learning_rates.minigpt4_lr", False),
    "minigpt4_text_processor": ("token_sequences.minigpt4_text_processor", False),
    "chatbind_labels": ("chatbind.labels", False),
    "chatbind_templates": ("chatbind.templates", False),
    "chatbind_llm": ("chatbind_model.llm", True),
    "chatbind_delta": ("chatbind_weights.delta", True),
    "chatbind_eval": ("chatbind_eval.review", False),
    "imagebind_audio_preproc": ("imagebind_media.audio_preproc", True),
    "chatbind_audio_preproc": ("imagebind_media.audio_preproc", True),
    "imagebind_video_preproc": ("imagebind_media.video_preproc", True),
    "imagebind_tokenizer": ("imagebind_media.tokenizer", False),
    "chatbind_image_preproc": ("imagebind_media.image_preproc", True),
    "imagebind_vision": ("imagebind.vision", True),
    "imagebind_audio": ("imagebind.audio", True),
    "imagebind_text": ("imagebind.text", True),
    "imagebind_depth_thermal_imu": ("imagebind.depth_thermal_imu", True),
    "chatbind_encoder": ("imagebind.chatbind_encoder", True),
    "flamingo_clip": ("flamingo_clip.clip", True),
    "flamingo_data": ("flamingo_data.data", False),
    "flamingo_perceiver": ("flamingo.perceiver", True),
    "flamingo_xattn": ("flamingo.xattn", True),
    "flamingo_e2e": ("flamingo_e2e.e2e", True),
    "flamingo_lora": ("flamingo_model.lora", True),
    "flamingo_train_step": ("flamingo_train.train_step", True),
    "textbind_basic": ("textbind.rows", False),
    "textbind_generated": ("textbind.rows", False),
    "textbind_truncation": ("textbind.rows", False),
    "textbind_batch": ("textbind.batch", False),
    "textbind_inference": ("textbind.prompts", False),
    "textbind_stage1": ("textbind.stage1", False),
    "textbind_minigpt4_llama_tokens": ("textbind.llama_tokens", False),
    "textbind_generation": ("textbind_generation.generation", False),
    "textbind_clean": ("textbind_clean.clean", False),
    "textbind_converters": ("textbind_data.converters", False),
}
OURS = (
    "chatbridge_",
    "minigpt4_",
    "multis_",
    "imagebind_",
    "chatbind_",
    "flamingo_",
    "textbind_",
)  # every case must hold
LATER: tuple[str, ...] = ()  # cases that this version does not build


@dataclass
class Outcome:
    """Counts over a folder."""

    num_held: int = 0
    num_failed: int = 0
    num_skipped: int = 0

    @property
    def is_good(self) -> bool:
        return self.num_held > 0 and not self.num_failed


def run_folder(folder: Path, outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yield a line per file pair, in the order of their names; `outcome` counts them.

    raises   ValueError when it is no folder
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; give one with NAME.json and NAME.safetensors files")
    stems = sorted({path.stem for path in folder.iterdir() if path.suffix in (".json", ".safetensors")})
    for stem in stems:
        line = run_one(folder / f"{stem}.json")
        outcome.num_held += line.get("ok") is True
        outcome.num_failed += line.get("ok") is False
        outcome.num_skipped += "skipped" in line
        yield line


def run_one(sidecar: Path) -> dict[str, Any]:
    """Return the line of one case: numbers, or the reason why there are none."""
    stem = sidecar.stem
    if is_later(stem):
        return {"case": stem, "skipped": "not known yet: this version does not build it"}
    if not sidecar.exists():
        return _failed(stem, f"incomplete: {stem}.safetensors has no {sidecar.name} beside it")
    try:
        about = read_sidecar(sidecar)
    except ValueError as error:
        return _failed(stem, str(error))
    if is_later(str(about.get("case", ""))):
        return _unknown(stem, about, True)
    name = known_name(str(about.get("case", "")), stem)
    has_tensors = sidecar.with_suffix(".safetensors").exists()
    if name is None:
        return _unknown(stem, about, has_tensors)
    function, needs_tensors = CASES[name]
    if needs_tensors and not has_tensors:
        line = _failed(stem, f"incomplete: {sidecar.with_suffix('.safetensors').name} is missing")
    else:
        line = _measured(stem, sidecar, function)
    return {**line, "case": about.get("case", stem), "file": stem}


def is_later(name: str) -> bool:
    """Return whether a name is that of a case that this version cannot build yet."""
    return name.startswith(LATER) and known_name("", name) is None


def known_name(case: str, stem: str) -> str | None:
    """Return the known case that the sidecar's `case`, or else its file name, equals, starts with or contains as whole
    words; longer names are tried first."""
    by_length = sorted(CASES, key=len, reverse=True)
    for given in (case, f"chatbridge_{case}", stem, f"chatbridge_{stem}"):
        for name in by_length:
            if re.match(rf"{name}(?![a-z0-9])", given, re.IGNORECASE):
                return name
    for given in (case, stem):
        for name in by_length:
            if re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", given, re.IGNORECASE):
                return name
    return None


def _measured(stem: str, sidecar: Path, function: str) -> dict[str, Any]:
    module, _, name = function.partition(".")
    case: Case = getattr(import_module(f"{HERE}.{module}"), name)
    try:
        check = Check(read_golden(sidecar))
        case(check)
    except KeyError as error:
        return _failed(stem, f"the file does not say {error}, which this case needs")
    except Exception as error:  # one broken case must not hide the others
        return _failed(stem, f"{type(error).__name__}: {error}")
    return check.line(stem)


def _unknown(stem: str, about: dict[str, Any], has_tensors: bool) -> dict[str, Any]:
    """Report an unknown case of our families as a failure; a file that is not a recorded case is only mentioned."""
    case = about.get("case")
    if is_later(str(case)):
        return {"case": stem, "skipped": "not known yet: this version does not build it"}
    if not (case or has_tensors or stem.startswith(OURS)):
        return {"case": stem, "skipped": "not a case: a JSON file without a case name and without tensors"}
    guess = nearest(stem, tuple(CASES))
    return _failed(stem, f"unknown case {case or stem!r}" + (f"; the nearest known one is {guess}" if guess else ""))


def _failed(case: str, problem: str) -> dict[str, Any]:
    return {"case": case, "max_abs": None, "max_rel": None, "ok": False, "problems": [problem]}
