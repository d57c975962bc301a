"""Contract tests over every registered component. A new one only adds its small settings here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chatbridge.common.types import Features, Segments
from chatbridge.config.schema import parse
from chatbridge.models.bridges import BRIDGES, Bridge
from chatbridge.models.bridges.base import pooled
from chatbridge.models.encoders import ENCODERS, Encoder
from chatbridge.models.fusion import FUSIONS
from chatbridge.models.generators import GENERATORS
from chatbridge.models.language import LANGUAGES, GenerateOptions, LanguageModel
from chatbridge.models.language.base import without_stop
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generation import start_generation
from chatbridge.models.loading import load_component, save_component
from tests.helpers.gated_models import RESAMPLER
from tests.helpers.tiny_models import AUDIO, IMAGEBIND, IMAGEBIND_MEDIA, LANGUAGE, MEDIA, PERCEIVER, VISION
from tests.helpers.tiny_towers import AST, CLIP, TIMM_VIT
from tests.helpers.tolerances import FP32

OUT_WIDTH = 12
ENCODER_SETTINGS = {
    "eva_vit": VISION, "beats": AUDIO, "hf_vision": CLIP, "hf_audio": AST, "timm_vision": TIMM_VIT,
    "imagebind": IMAGEBIND,
}  # fmt: skip
BRIDGE_SETTINGS = {
    "qformer": PERCEIVER,
    "linear": {"name": "linear"},
    "mlp": {"name": "mlp", "hidden": 8},
    "resampler": {**RESAMPLER, "max_frames": 3},
}
LANGUAGE_SETTINGS = {"causal_lm": LANGUAGE}


def settings_of(part: type, mapping: dict[str, Any]) -> Any:
    return parse(part.Config, {key: value for key, value in mapping.items() if key != "name"})


def encoder_named(name: str) -> Encoder:
    part = ENCODERS.get(name)
    torch.manual_seed(0)
    return part(settings_of(part, ENCODER_SETTINGS[name]))


def bridge_named(name: str, **more: Any) -> Bridge:
    part = BRIDGES.get(name)
    torch.manual_seed(0)
    return part(settings_of(part, {**BRIDGE_SETTINGS[name], **more}), {"image": 10, "video": 10}, OUT_WIDTH)


def language_named(name: str) -> LanguageModel:
    part = LANGUAGES.get(name)
    torch.manual_seed(0)
    return part(settings_of(part, LANGUAGE_SETTINGS[name])).eval()


def one_piece(name: str, modality: str, items: int = 2) -> Tensor:
    """Media as the encoder of this name gets them: the route has flattened frames and clips."""
    shape = MEDIA[modality] if modality == "image" else MEDIA[modality][1:] if modality in MEDIA else ()
    shape = IMAGEBIND_MEDIA[modality] if name == "imagebind" else shape
    return torch.randn(items, *shape, generator=torch.Generator().manual_seed(1))


def test_every_registered_part_is_tested() -> None:
    """Fails when a part is registered without settings in this file."""
    assert set(ENCODER_SETTINGS) == set(ENCODERS.names())
    assert set(BRIDGE_SETTINGS) == set(BRIDGES.names())
    assert set(LANGUAGE_SETTINGS) == set(LANGUAGES.names())
    assert FUSIONS.names() == ("cross_attention", "inline")  # test_cross_attention.py; inline in every other file
    assert GENERATORS.names() == ("diffusion", "image_server")  # tests/models/generators


@pytest.mark.parametrize("name", ENCODERS.names())
def test_encoder_shapes(name: str) -> None:
    """Fails when an encoder's announced tokens, width or axes are not what comes out."""
    encoder = encoder_named(name).eval()
    for modality in encoder.modalities:
        media = one_piece(name, modality)
        assert media.ndim == encoder.axes(modality)
        features = encoder(media, modality)
        assert features.x.shape == (2, encoder.num_tokens(modality), encoder.width)
        assert torch.isfinite(features.x).all()
        with pytest.raises(ValueError, match="shape"):
            encoder(media[:, None], modality)


@pytest.mark.parametrize("name", ENCODERS.names())
def test_encoder_items_do_not_mix(name: str) -> None:
    """Fails when the features of an item depend on its neighbours in the batch."""
    encoder = encoder_named(name).eval()
    for modality in encoder.modalities:
        media = one_piece(name, modality, items=3)
        alone, among = encoder(media[1:2], modality).x, encoder(media, modality).x[1:2]
        torch.testing.assert_close(among, alone, atol=FP32, rtol=FP32)


@pytest.mark.parametrize("name", ENCODERS.names())
def test_encoder_trains(name: str) -> None:
    """Fails when a parameter of an encoder takes no part in the features of any modality."""
    encoder = encoder_named(name)
    for modality in encoder.modalities:
        weight_of_each_output(encoder(one_piece(name, modality), modality).x).backward()
    assert reached(encoder) == [] or set(reached(encoder)) <= WITHOUT_INFLUENCE[name]


WITHOUT_INFLUENCE: dict[str, set[str]] = {
    "eva_vit": set(),
    "hf_vision": {f"tower.encoder.layers.{i}.self_attn.k_proj.bias" for i in (0, 1)},
    "timm_vision": set(),
    "hf_audio": {"tower.layers.0.attention.k_proj.bias"},
    "beats": {"blocks.0.attn.k.bias"},  # the same for every key: the softmax takes it out (gradient is rounding)
}


@pytest.mark.parametrize("name", BRIDGES.names())
def test_bridge_shapes(name: str) -> None:
    """Fails when a bridge's announced tokens or width are not what comes out, for one frame or several."""
    bridge = bridge_named(name).eval()
    for frames in (1, 3):
        tokens = bridge(Features(torch.randn(2, 4 * frames, 10), frames=frames), "video")
        assert tokens.shape == (2, bridge.num_tokens(4 * frames), OUT_WIDTH)


@pytest.mark.parametrize("name", BRIDGES.names())
def test_bridge_trains(name: str) -> None:
    """Fails when a parameter of a bridge gets no gradient, or the features get none."""
    bridge = bridge_named(name)
    x = torch.randn(2, 4, 10, requires_grad=True)
    weight_of_each_output(bridge(Features(x), "image")).backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)
    assert [entry for entry in reached(bridge) if not entry.endswith("key.bias")] == []


@pytest.mark.parametrize("name", BRIDGES.names())
def test_bridge_tokens_differ(name: str) -> None:
    """Fails when a fresh bridge's tokens are copies of each other (queries that start equal stay equal)."""
    tokens = bridge_named(name).eval()(Features(torch.randn(1, 6, 10)), "image")[0]
    assert bool((torch.cdist(tokens, tokens) + torch.eye(len(tokens)) > 1e-3).all())


@pytest.mark.parametrize("name", BRIDGES.names())
def test_bridge_output_size(name: str) -> None:
    """Fails when output_std does not set how large a fresh bridge's tokens are."""
    part = BRIDGES.get(name)
    wide = {"width": 64, "heads": 4} if name == "qformer" else {"hidden": 256} if name == "mlp" else {}
    bridge = part(settings_of(part, {**BRIDGE_SETTINGS[name], **wide, "output_std": 0.3}), {"image": 64}, 128).eval()
    tokens = bridge(Features(torch.randn(32, 6, 64)), "image")
    assert 0.2 < float(tokens.detach().std()) < 0.4


@pytest.mark.parametrize("name", [*ENCODERS.names(), *BRIDGES.names()])
def test_own_file_restores_a_part(name: str, tmp_path: Path) -> None:
    """Fails when a part's own names do not pass its converter unchanged, on the CPU or into a part without memory."""
    make = encoder_named if name in ENCODERS.names() else bridge_named
    part = make(name).eval()
    scrambled = copy.deepcopy(part)
    for parameter in scrambled.parameters():
        nn.init.normal_(parameter)
    save_component(part, tmp_path / "part.safetensors")
    load_component(scrambled, tmp_path / "part.safetensors")
    assert_same_state(scrambled, part)
    with torch.device("meta"):
        empty = make(name).eval()
    assert all(parameter.is_meta for parameter in empty.parameters())
    if name in ENCODERS.names():
        load_component(empty, tmp_path / "part.safetensors")
        for modality in part.modalities:
            media = one_piece(name, modality)
            torch.testing.assert_close(empty(media, modality).x, part(media, modality).x)


@pytest.mark.parametrize("name", LANGUAGES.names())
def test_language_shapes(name: str) -> None:
    """Fails when embeddings, states and logits do not have the announced sizes."""
    language = language_named(name)
    ids = torch.tensor([[1, 5, 6], [1, 7, 8]])
    embeds = language.embed(ids)
    hidden = language(embeds)
    assert embeds.shape == hidden.shape == (2, 3, language.width)
    assert language.logits(hidden).shape == (2, 3, 50)


@pytest.mark.parametrize("name", LANGUAGES.names())
def test_language_segments(name: str) -> None:
    """Fails when one conversation spelled out as segments differs from none, or another conversation is still read."""
    language = language_named(name)
    embeds = language.embed(torch.tensor([[1, 5, 6, 9]]))
    positions = torch.arange(4)[None]
    base = torch.zeros(1, 4, dtype=torch.long)
    one, two = (Segments(torch.tensor([numbers]), base, base + 4) for numbers in ([0, 0, 0, 0], [0, 1, 1, 1]))
    torch.testing.assert_close(language(embeds, positions, one), language(embeds, positions))
    changed = embeds.clone()
    changed[:, 0] += 1.0
    torch.testing.assert_close(language(changed, positions, two)[:, 1:], language(embeds, positions, two)[:, 1:])
    assert not torch.allclose(language(changed, positions)[:, 1:], language(embeds, positions)[:, 1:])


def answers(language: LanguageModel, embeds: Tensor, mask: Tensor, options: GenerateOptions) -> list[list[int]]:
    growing = start_generation(language, EmbeddedPrompts(embeds, mask), options)
    while not growing.is_done:
        growing.step()
    return growing.answers


@pytest.mark.parametrize("name", LANGUAGES.names())
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 0.1}])
def test_generation_does_not_depend_on_padding(name: str, options: dict[str, Any]) -> None:
    """Fails when a short prompt's answer changes in a batch with a longer one (positions, mask, padding side), or the
    repetition penalty ignores as many new tokens as the prompt has padding."""
    language = language_named(name)
    ids = torch.tensor([[1, 9, 4, 8, 30, 7, 5, 3, 11, 2, 6, 12]])
    short, long = language.embed(ids[:, :3]), language.embed(ids)
    chosen = GenerateOptions(max_new_tokens=12, **options)
    alone = answers(language, short, torch.ones(1, 3, dtype=torch.bool), chosen)
    padded = torch.cat([torch.zeros(1, 9, language.width), short], dim=1)
    mask = torch.tensor([[False] * 9 + [True] * 3, [True] * 12])
    together = answers(language, torch.cat([padded, long]), mask, chosen)
    assert alone[0] == together[0]


@pytest.mark.parametrize("name", LANGUAGES.names())
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_the_end_token_is_not_part_of_an_answer(name: str, options: dict[str, Any]) -> None:
    """Fails when the end token, or what pads a row after it, stays among the ids of an answer."""
    language = language_named(name)
    embeds, mask = language.embed(torch.tensor([[1, 9, 4]])), torch.ones(1, 3, dtype=torch.bool)
    (free,) = answers(language, embeds, mask, GenerateOptions(max_new_tokens=6))
    (end,) = language.end_ids
    head = language.lm.get_output_embeddings()
    assert end not in free, "this model ends by itself; choose other start values"
    head.weight.data[end] = 1.5 * head.weight.data[free[0]]  # now the end is the likeliest first token
    rows = torch.cat([embeds, -embeds])  # the second row does not end there: it pads the first
    first, second = answers(language, rows, mask.repeat(2, 1), GenerateOptions(max_new_tokens=6, **options))
    assert first == [] and end not in second and second


def test_an_answer_ends_before_its_first_end_or_stop() -> None:
    """Fails when an end token or a stop sequence, or anything after the first of them, stays in an answer."""
    assert without_stop([5, 6, 2, 7], [2, 3], []) == [5, 6]
    assert without_stop([5, 3, 2, 2], [2, 3], []) == [5]
    assert without_stop([2, 5], [2], []) == []
    assert without_stop([5, 6, 7, 8], [2], [(6, 7)]) == [5]
    assert without_stop([5, 6, 7, 2], [2], [(9,), (7,)]) == [5, 6]
    assert without_stop([5, 2, 6, 7], [2], [(6, 7)]) == [5]
    assert without_stop([5, 6, 7], [2], [(6, 8), ()]) == [5, 6, 7]


@pytest.mark.parametrize("name", LANGUAGES.names())
def test_sampling_follows_its_seed(name: str) -> None:
    """Fails when a seeded answer cannot be repeated, every seed gives the same, or torch's own state is disturbed."""
    language = language_named(name)
    embeds, mask = language.embed(torch.tensor([[1, 9, 4]])), torch.ones(1, 3, dtype=torch.bool)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = [
        answers(language, embeds, mask, GenerateOptions(max_new_tokens=8, sample=True, seed=seed))
        for seed in (1, 1, 2, 3)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] or drawn[0] != drawn[3]
    assert torch.equal(torch.rand(1), expected)


def test_pooling_leaves_masked_tokens_out() -> None:
    """Fails when a padded feature token enters a mean, or a group of nothing but padding is not zero."""
    x = torch.tensor([[[1.0], [3.0], [50.0], [50.0]]])
    mask = torch.tensor([[True, True, False, False]])
    assert pooled(Features(x, mask), 1).tolist() == [[[2.0]]]
    assert pooled(Features(x, mask), 2).tolist() == [[[2.0], [0.0]]]
    assert pooled(Features(x), 2).tolist() == [[[2.0], [50.0]]]


def weight_of_each_output(x: Tensor) -> Tensor:
    """A scalar that reacts to every output differently, so that no symmetry hides a gradient."""
    return (x * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).sum()


def reached(part: nn.Module) -> list[str]:
    """Parameters without a gradient, or with one that is zero."""
    named = part.named_parameters()
    return [name for name, p in named if p.grad is None or not bool(p.grad.abs().max() > 1e-7)]


def assert_same_state(got: nn.Module, want: nn.Module) -> None:
    assert got.state_dict().keys() == want.state_dict().keys()
    for name, value in want.state_dict().items():
        assert torch.equal(got.state_dict()[name], value), name


RAW = {  # what a processor turns into an encoder's input
    "image": torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)),
    "video": torch.randint(0, 256, (7, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)),
    "audio": torch.randn(9000, generator=torch.Generator().manual_seed(5)),
    "depth": 5 * torch.rand(40, 30, generator=torch.Generator().manual_seed(6)),
    "thermal": torch.rand(40, 30, generator=torch.Generator().manual_seed(7)),
    "imu": torch.randn(6, 400, generator=torch.Generator().manual_seed(8)),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ENCODERS.names())
def test_encoder_reads_what_its_processor_makes(name: str, train: bool) -> None:
    """Fails when the preprocessing that belongs to an encoder makes another shape than the encoder reads."""
    encoder = encoder_named(name).eval()
    for modality in encoder.modalities:
        in_one = modality not in ("video", "audio")
        count = 1 if in_one else 3  # ImageBind cuts three crops out of each clip of a video
        processor = encoder.config.processor(modality, train, count)
        item = processor(RAW[modality])
        assert getattr(processor, "item_shape", None) in (None, tuple(item.shape))
        pieces = item[None] if in_one else item
        assert pieces.ndim == encoder.axes(modality) and len(pieces) == count
        assert encoder(pieces, modality).x.shape == (count, encoder.num_tokens(modality), encoder.width)
