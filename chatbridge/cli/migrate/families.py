"""Which model an `arch` and `model_type` are here, and which ones are refused.

Facts: PRETRAINED_MODEL_CONFIG_DICT of the model classes of Vision-CAIR/MiniGPT-4, joez17/ChatBridge, salesforce/LAVIS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatbridge.cli.migrate.rows import short
from chatbridge.common.errors import ConfigError, Problem, nearest

FamilyName = Literal["minigpt4", "minigpt4_llama2", "chatbridge", "blip2_opt", "instructblip"]
_VICUNA0 = ("minigpt4_vicuna0.yaml", "minigpt4.yaml")
RUN_ANSWER_KEYS = (  # keys of `run` about how answers are generated
    "max_len", "min_len", "num_beams", "length_penalty", "repetition_penalty", "prompt", "inference_method",
)  # fmt: skip
MODEL_FILES: dict[tuple[str, str], tuple[str, ...]] = {  # (arch, model_type) -> names below <package>/configs/models
    ("minigpt4", "pretrain_vicuna0"): _VICUNA0,
    ("mini_gpt4", "pretrain_vicuna0"): _VICUNA0,
    ("minigpt4", "pretrain_vicuna"): _VICUNA0,
    ("mini_gpt4", "pretrain_vicuna"): _VICUNA0,
    ("minigpt4", "pretrain_llama2"): ("minigpt4_llama2.yaml",),
    ("mini_gpt4", "pretrain_llama2"): ("minigpt4_llama2.yaml",),
    ("chatbridge", "pretrain_vicuna"): ("chatbridge.yaml",),
    ("mini_gpt4_tri", "pretrain_vicuna"): ("chatbridge.yaml",),
    **{("blip2_opt", f"{kind}_opt{size}"): (f"blip2/blip2_{name}_opt{size}.yaml",)
       for kind, name in (("pretrain", "pretrain"), ("caption_coco", "caption")) for size in ("2.7b", "6.7b")},
    ("blip2_vicuna_instruct", "vicuna7b"): ("blip2/blip2_instruct_vicuna7b.yaml",),
    ("blip2_vicuna_instruct", "vicuna13b"): ("blip2/blip2_instruct_vicuna13b.yaml",),
}  # fmt: skip
REFUSED = {  # arch -> reason, and the nearest thing here
    "minigpt_v2": "MiniGPT-v2 is a different model, which is not included: images of 448 pixels, four patches joined "
    "without a Q-Former, task tokens and boxes. Nearest: models/minigpt4_llama2.yaml, which joins patches, with "
    "model.adapters for LoRA (docs/swapping.md)",
    "blip2": "BLIP-2's first stage trains the Q-Former against texts (contrast, matching), not a language model. "
    "Start from its released file instead: model.bridges.<name>.weights takes blip2_pretrained.pth",
    "blip2_t5": "FLAN-T5 is an encoder-decoder; language models here are decoders only. Nearest: the same perceiver "
    "over a decoder, models/minigpt4_vicuna7b.yaml; its weights file is the one of FLAN-T5-XXL",
    "blip2_t5_instruct": "FLAN-T5 is an encoder-decoder; language models here are decoders only. Nearest: "
    "models/minigpt4_vicuna7b.yaml",
    "blip2_vicuna_xinstruct": "X-InstructBLIP has a Q-Former per modality, each of which reads the instruction. "
    "Nearest: models/chatbridge_vicuna7b.yaml, one Q-Former with a query set for each modality",
}
OTHER_LAVIS = ("albef", "blip_", "clip", "alpro", "gpt_dialogue", "pnp_vqa", "img2prompt", "instruct_", "pretrain_opt")


@dataclass(frozen=True)
class Family:
    """The model of an old file.

    base        the shipped file that describes it; None: `model` is written out
    vision      name of the encoder for images in it
    bridge      name of the bridge
    size        "7b" or "13b"; "" where there is one size
    size_from   how the size was found, for the table
    """

    name: FamilyName
    base: str | None
    size: str = ""
    size_from: str = ""
    vision: str = "vision"

    @property
    def bridge(self) -> str:
        return "projection" if self.name == "minigpt4_llama2" else "perceiver"

    @property
    def is_chatbridge(self) -> bool:
        return self.name == "chatbridge"

    @property
    def is_minigpt4(self) -> bool:
        return self.name.startswith("minigpt4")

    @property
    def is_lavis(self) -> bool:
        """One of LAVIS itself, not of a fork."""
        return self.name in ("blip2_opt", "instructblip")


def family_of(model: Mapping[str, Any], shown: str) -> Family:
    """The family of a merged section `model`. raises ConfigError for a model that cannot be expressed"""
    for key in ("arch", "model_type"):
        if not isinstance(model.get(key), (str, type(None))):
            raise ConfigError([Problem(f"model.{key}", f"expected a name, got {short(model[key])}", shown)])
    arch, kind = str(model["arch"]), str(model.get("model_type"))
    if arch in REFUSED:
        raise ConfigError([Problem("model.arch", f"is {arch}: {REFUSED[arch]}", shown)])
    if arch in ("minigpt4", "mini_gpt4"):
        if kind == "pretrain_llama2":
            return Family("minigpt4_llama2", "models/minigpt4_llama2.yaml")
        if kind in ("pretrain_vicuna0", "pretrain_vicuna", "None"):
            return _vicuna("minigpt4", "models/minigpt4_vicuna{}.yaml", model)
        raise _unknown_type(kind, ("pretrain_vicuna0", "pretrain_llama2"), shown)
    if arch in ("chatbridge", "mini_gpt4_tri"):
        return _vicuna("chatbridge", "models/chatbridge_vicuna{}.yaml", model)
    if arch == "blip2_vicuna_instruct":
        size = "13b" if "13b" in kind else "7b"
        return Family("instructblip", f"models/minigpt4_vicuna{size}.yaml", size, f"model_type is {kind}")
    if arch == "blip2_opt":
        if (found := re.search(r"(2\.7b|6\.7b)$", kind)) is None:
            raise _unknown_type(kind, ("pretrain_opt2.7b", "pretrain_opt6.7b"), shown)
        return Family("blip2_opt", None, found.group(1), f"model_type is {kind}")
    raise _unknown_arch(arch, shown)


def _vicuna(name: FamilyName, base: str, model: Mapping[str, Any]) -> Family:
    """Vicuna of 7 or 13 billion, by the folder's config.json, else by the names of the files."""
    folder = model.get("llama_model")
    if isinstance(folder, str) and (size := _size_of_folder(Path(folder).expanduser())):
        return Family(name, base.format(size), size, f"config.json of {folder}")
    for key in ("llama_model", "ckpt"):
        if isinstance(text := model.get(key), str) and (
            found := re.search(r"(?<![\d.])(7|13)[-_]?b(?![a-z])", text.lower())
        ):
            size = f"{found.group(1)}b"
            return Family(name, base.format(size), size, f"the name in model.{key}")
    return Family(name, base.format("13b"), "13b", "no key names a size: 13B is assumed, the size of the release")


def _size_of_folder(folder: Path) -> str | None:
    try:
        width = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("hidden_size")
    except (OSError, ValueError, AttributeError):
        return None
    return {4096: "7b", 5120: "13b"}.get(width)


def _unknown_type(kind: str, known: tuple[str, ...], shown: str) -> ConfigError:
    guess = nearest(kind, known)
    return ConfigError([Problem("model.model_type", f"{kind!r} is not known", shown, allowed=known, nearest=guess)])


def _unknown_arch(arch: str, shown: str) -> ConfigError:
    known = tuple(dict.fromkeys(name for name, _ in MODEL_FILES))
    if arch.startswith(OTHER_LAVIS):
        message = f"is {arch}: a model of LAVIS that does not put features into a language model; there is no equal"
        return ConfigError([Problem("model.arch", message, shown, allowed=known)])
    hint = (
        "for a fork's own model: describe its parts in a YAML (docs/migrating.md shows which class becomes what), then "
        "migrate the run with model.arch set to the nearest of these: --options model.arch=minigpt4"
    )
    message = f"{arch!r} is not a model that this command knows"
    return ConfigError([Problem("model.arch", message, shown, allowed=known, nearest=nearest(arch, known), hint=hint)])
