"""Families of current parts, tiny and random: as transformers computes them, alone, in batches and packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.models.encoders.hf_vision import HFVision
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.language.generation import start_generation
from tests.helpers.lively_languages import IDS, TWELVE, alone, finished, padded
from tests.helpers.tiny_languages import SIZES
from tests.models.language.test_decode import of_transformers
from tests.models.test_segments import LOSS, losses, of, pack, text

SCALED = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 4,
}  # fmt: skip
LANGUAGES: dict[str, dict[str, Any]] = {
    "Qwen3": {"model_type": "qwen3"},  # norms of queries and keys
    "SmolLM3": {"model_type": "smollm3", "no_rope_layers": [1, 0]},  # the second layer knows no positions
    "Llama 3.2": {"model_type": "llama", "rope_parameters": SCALED},
}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
TEXTS = {**VIT, "intermediate_size": 24, "vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2}
EYES: dict[str, tuple[Any, int, int]] = {  # model, drop_first, side in pixels
    "SigLIP 2": (
        transformers.SiglipConfig(
            vision_config={**VIT, "intermediate_size": 24, "image_size": 32},
            text_config={name: value for name, value in TEXTS.items() if name != "patch_size"},
        ), 0, 32,
    ),
    "DINOv3": (transformers.DINOv3ViTConfig(**VIT, intermediate_size=24, image_size=32, num_register_tokens=4), 5, 48),
    "DINOv2": (transformers.Dinov2Config(**VIT, mlp_ratio=2, image_size=56), 1, 32),
    "DINOv2 with registers": (transformers.Dinov2WithRegistersConfig(**VIT, mlp_ratio=2, image_size=56), 5, 32),
}  # fmt: skip


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> CausalLM:
    """Tied embeddings, as the small published ones; an answer never ends."""
    torch.manual_seed(0)
    sizes = {**SIZES, "tie_word_embeddings": True, "initializer_range": 0.3, **LANGUAGES[request.param]}
    model = CausalLM(parse(CausalLM.Config, {"architecture": sizes})).eval()
    model.lm.config.eos_token_id = model.lm.generation_config.eos_token_id = None
    return model


def test_greedy_answers_are_those_of_transformers_in_any_batch(language: CausalLM) -> None:
    """fails when positions, norms or layers without positions make an answer depend on the padding beside it"""
    prompts = [IDS[0, :3], IDS[0], IDS[0, 2:8]]
    with torch.no_grad():
        expected = [of_transformers(language, ids) for ids in prompts]
        assert [alone(language, ids) for ids in prompts] == expected
        assert finished(start_generation(language, padded(language, prompts), TWELVE)) == expected


def test_packed_conversations_equal_separate_ones(language: CausalLM) -> None:
    """fails when a layer of one of these families sees the neighbour in its row, above all one without positions"""
    first, second, third = text(1, 9), text(2, 8), text(3, 5)
    with torch.no_grad():
        want = torch.cat([losses(language, of(one)) for one in (first, second, third)])
        torch.testing.assert_close(losses(language, of(pack([first, second]), third)), want, atol=LOSS, rtol=0)


def test_smollm3_has_layers_without_positions() -> None:
    """fails when `no_rope_layers` of a YAML does not reach the model: the tests above would then show nothing"""
    torch.manual_seed(0)
    sizes = [{**SIZES, "model_type": "smollm3", "no_rope_layers": one} for one in ([1, 0], [1, 1])]
    both = [CausalLM(parse(CausalLM.Config, {"architecture": one})) for one in sizes]
    both[1].load_state_dict(both[0].state_dict())
    first, second = (losses(one.eval(), of(text(1, 9))) for one in both)
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize("name", EYES)
def test_eyes_out_of_a_folder_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """fails when class tokens or registers remain, or rotary positions are lost on the way from the meta device"""
    settings, dropped, side = EYES[name]
    torch.manual_seed(0)
    whole = transformers.AutoModel.from_config(settings).eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    whole.save_pretrained(tmp_path)
    size = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(size))
    with torch.device("meta"):
        eyes = HFVision(parse(HFVision.Config, {"weights": str(tmp_path), "drop_first": dropped}))
    eyes.to_empty(device="cpu")
    eyes.reset_buffers()
    eyes.load_folder()
    media = torch.randn(2, 3, side, side)
    with torch.no_grad():
        want = getattr(whole, "vision_model", whole)(media).last_hidden_state[:, dropped:]
        got = eyes.eval()(media).x
    assert got.shape == (2, (side // 8) ** 2, 16) and eyes.num_tokens("image") == got.shape[1]
    torch.testing.assert_close(got, want)


def test_a_siglip_of_variable_resolution_is_refused_with_the_fixed_one(tmp_path: Path) -> None:
    """fails when NaFlex weights pass --check and end in a TypeError of transformers while the model is built"""
    architecture = {"model_type": "siglip2_vision_model", **VIT, "intermediate_size": 24, "num_patches": 16}
    with pytest.raises(ConfigError, match=r"architecture(.|\n)*NaFlex(.|\n)*siglip2-base-patch16-224"):
        parse(HFVision.Config, {"architecture": architecture, "image_size": 32})
    transformers.Siglip2VisionModel(transformers.AutoConfig.for_model(**architecture)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"weights(.|\n)*NaFlex"):
        parse(HFVision.Config, {"weights": str(tmp_path), "image_size": 32})
