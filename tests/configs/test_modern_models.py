"""configs/models/modern_*.yaml: sizes are those of the published models, to the parameter; answers do not think."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from chatbridge.config.merge import load
from chatbridge.models.hf_folder import split_id

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "configs/models").glob("modern_*.yaml"))
PUBLISHED = {  # id -> parameters, shared ones once
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
}
QUICK = ("modern_2b", "modern_llama32_1b", "modern_smollm2_135m")


def model_of(name: str) -> dict[str, Any]:
    return load(ROOT / f"configs/models/{name}.yaml")[0]["model"]


def identifier(part: dict[str, Any]) -> str:
    """owner/name of a part; fails when its revision is not pinned to a commit"""
    repo, revision = split_id(part["weights"])
    assert revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
    return repo


def test_every_part_of_the_hub_is_pinned():
    """fails when a part would change with the newest version of its repository"""
    parts = [part for name in FILES for part in model_of(name)["encoders"].values()]
    assert len({identifier(part) for part in parts if part["weights"] != "???"}) == 6


def test_every_language_model_has_its_file():
    """fails when a published size is not reached by a file, or a file names a model whose size is not checked"""
    assert {identifier(model_of(name)["language"]) for name in FILES} == PUBLISHED.keys()


@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in FILES])
def test_the_language_model_has_the_published_size(name: str):
    """fails when a size of `architecture` is wrong, or one is inherited from another family"""
    language = model_of(name)["language"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**language["architecture"]))
    assert sum(one.numel() for one in model.parameters()) == PUBLISHED[identifier(language)]


def test_a_model_with_a_thinking_mode_gets_an_empty_thought():
    """fails when training and chat differ in the prefix of an answer, or a thought is supervised or left open"""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    for name in ("modern_2b", "modern_4b", "modern_8b", "modern_qwen3_0b6", "modern_smollm3_3b"):
        text = model_of(name)["language"]["template_settings"]["chat_template"]
        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)
        asked = [{"role": "user", "content": "Who?"}]
        answered = [*asked, {"role": "assistant", "content": "An owl."}]
        prompt = template.render(messages=asked, add_generation_prompt=True)
        assert prompt == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        assert template.render(messages=answered, add_generation_prompt=False) == f"{prompt}An owl.<|im_end|>\n"
