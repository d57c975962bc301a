"""Packed conversations and side texts against the same texts in separate sequences, over families of language
models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.attention import attention_arguments, obstacle, rule, visible
from chatbridge.conversation.token_sequence import TokenSequence, numbered
from chatbridge.datasets.collate import stack
from chatbridge.datasets.packing import pack
from chatbridge.models.language.causal_lm import CausalLM
from tests.helpers.tiny_languages import ATTENTION, tiny_language

# not Bloom and MPT, which have ALiBi; OPT and Falcon, which make masks of their own in transformers 5.0
FAMILIES = [family for family in ATTENTION if family not in ("bloom", "mpt", "opt", "falcon")]
LOSS, SIDE_LOSS, GRADIENT = 1e-5, 1e-6, 1e-5  # per token, which is about 4; relative, of the mean; of the mean loss


def text(seed: int, length: int, branches: tuple[range, ...] = ()) -> TokenSequence:
    """Random tokens; every one is supervised that something precedes. Longer than the windows of ATTENTION."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (length,), generator=draw).tolist()
    positions, segments = numbered(length, branches)
    row = TokenSequence(ids, positions, segments)
    last: dict[int, int] = {}
    for index in range(length):
        branch = segments[index].branch if segments else 0
        if (before := last.get(branch, last.get(0, -1))) >= 0:
            row.predict_at.append(before)
            row.target.append(ids[index])
        last[branch] = index
    return row


def of(*rows: TokenSequence) -> Batch:
    count = sum(row.num_conversations for row in rows)
    return stack([Sample(str(number), "s", ()) for number in range(count)], rows, 0)


def losses(model: CausalLM, batch: Batch) -> Tensor:
    """float[S]"""
    hidden = model(model.embed(batch.ids), batch.positions, batch.segments).flatten(0, 1)
    return F.cross_entropy(model.logits(hidden[batch.predict_at]), batch.target, reduction="none")


def gradients(model: CausalLM, *batches: Batch) -> dict[str, Tensor]:
    """Of the mean over all supervised points of all batches."""
    model.zero_grad()
    count = sum(batch.num_supervised for batch in batches)
    for batch in batches:
        (losses(model, batch).sum() / count).backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_conversations_equal_separate_ones(family: str) -> None:
    """fails when a conversation sees its neighbour or padding, takes its positions, or a window spans into it"""
    model = tiny_language(family)
    first, second, third = text(1, 9), text(2, 8), text(3, 5)
    packed, apart = of(pack([first, second]), third), [of(first), of(second), of(third)]
    want = torch.cat([losses(model, one) for one in apart])
    torch.testing.assert_close(losses(model, packed), want, atol=LOSS, rtol=0)
    wanted = gradients(model, *apart)
    for name, got in gradients(model, packed).items():
        assert (got - wanted[name]).abs().max() < GRADIENT, name
    one_text = replace(packed, positions=torch.arange(17).repeat(2, 1), segments=None)
    assert (losses(model, one_text) - want).abs().max() > 30 * LOSS, "the texts would not disturb each other anyway"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_side_text_equals_its_own_row_and_leaves_the_base_alone(family: str) -> None:
    """fails when the base sees a side text, two side texts see each other, or windows count side texts"""
    model = tiny_language(family)
    row = text(4, 18, (range(7, 10), range(10, 12)))  # 7 tokens, two side texts, 6 tokens more
    ids = row.ids
    bases = [plain(ids[:7] + ids[12:]), plain(ids[:10]), plain(ids[:7] + ids[10:12])]
    base, one, other = (losses(model, of(base)) for base in bases)
    want = torch.cat([base[:6], one[6:], other[6:], base[6:]])
    got = losses(model, of(pack([text(5, 4), row])))[3:]
    torch.testing.assert_close(got, want, atol=LOSS, rtol=0)
    torch.testing.assert_close(got.mean(), want.mean(), atol=0, rtol=SIDE_LOSS)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_side_text_may_be_at_the_end_of_its_sequence(family: str) -> None:
    """fails when a side text sees the base after its anchor, which is possible where side texts are appended
    (TextBind)"""
    model = tiny_language(family)
    row = text(4, 15, (range(7, 10),))
    order = [*range(7), *range(10, 15), *range(7, 10)]
    segments = [row.segments[at] for at in order] if row.segments else []
    moved = TokenSequence([row.ids[at] for at in order], [row.positions[at] for at in order], segments)
    moved.predict_at, moved.target = [order.index(at) for at in row.predict_at], row.target
    torch.testing.assert_close(losses(model, of(moved)), losses(model, of(row)), atol=LOSS, rtol=0)


def plain(ids: list[int]) -> TokenSequence:
    return TokenSequence(ids, predict_at=list(range(len(ids) - 1)), target=ids[1:])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_eager_attention_keeps_segments_too(family: str) -> None:
    """fails when another implementation takes the mask in another form, or gets none"""
    model, batch = tiny_language(family), of(pack([text(1, 9), text(4, 18, (range(7, 10),))]))
    want = losses(model, batch)
    model.lm.set_attn_implementation("eager")
    torch.testing.assert_close(losses(model, batch), want, atol=LOSS, rtol=0)


def test_without_segments_no_mask_is_passed() -> None:
    """fails when a plain batch leaves the fast path of the model"""
    model, batch = tiny_language("llama"), of(text(1, 9), text(2, 8))
    assert attention_arguments(model.lm.base_model, model.embed(batch.ids), batch.positions, batch.segments) == {}


@dataclass
class Flash:
    """What a kernel for variable lengths computes, one conversation after the other; counts its calls."""

    calls: int = 0

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
        cu_seq_lens_q: Tensor, cu_seq_lens_k: Tensor, max_length_q: int, max_length_k: int,
        scaling: float | None = None, sliding_window: int | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        self.calls += 1
        assert attention_mask is None and torch.equal(cu_seq_lens_q, cu_seq_lens_k) and max_length_q == max_length_k
        assert cu_seq_lens_q.dtype == torch.int32 and int(cu_seq_lens_q.diff().max()) == max_length_q
        batch, heads, _, width = query.shape
        key, value = (one.repeat_interleave(heads // one.shape[1], 1) for one in (key, value))
        flat = [one.transpose(1, 2).reshape(-1, heads, width) for one in (query, key, value)]  # [B * L, heads, width]
        found = []
        for parts in zip(*(one.split(cu_seq_lens_q.diff().tolist()) for one in flat), strict=True):
            q, k, v = (part.transpose(0, 1) for part in parts)  # [heads, length, width]
            distance = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
            sees = (distance >= 0) & (distance < (sliding_window or q.shape[1]))
            found.append(F.scaled_dot_product_attention(q, k, v, sees, scale=scaling).transpose(0, 1))
        return torch.cat(found).view(batch, -1, heads, width), None


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mistral", "gemma3_text"])
def test_variable_length_kernels_get_the_borders(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when borders are those of rows, miss padding, or do not reach the kernel of every layer"""
    from transformers import AttentionInterface

    model, batch, kernel = tiny_language(family), of(pack([text(1, 9), text(2, 8)]), text(3, 5)), Flash()
    want = losses(model, batch)
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_stand_in", kernel)
    model.lm.config._attn_implementation = "flash_stand_in"
    torch.testing.assert_close(losses(model, batch), want, atol=LOSS, rtol=0)
    assert kernel.calls == 2
    with pytest.raises(ValueError, match="flash_stand_in cannot express side texts.*flex_attention"):
        losses(model, of(text(4, 18, (range(7, 10),))))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_flex_attention_gets_a_block_mask(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when FlexAttention's mask differs from the dense one, or does not reach it. Uncompiled here."""
    from torch.nn.attention import flex_attention as torch_flex
    from transformers import masking_utils
    from transformers.integrations import flex_attention

    def block_mask(_compile: bool, **settings: Any) -> Any:
        return torch_flex.create_block_mask(**settings)

    monkeypatch.setattr(masking_utils, "create_block_mask", block_mask)
    monkeypatch.setattr(flex_attention.WrappedFlexAttention, "__init__", lambda self, training: None)
    monkeypatch.setattr(flex_attention.WrappedFlexAttention, "__call__", lambda self: torch_flex.flex_attention)
    model = tiny_language(family)
    batch = of(pack([text(1, 9), text(4, 18, (range(7, 10), range(10, 12)))]), text(2, 8))
    assert batch.segments is not None
    own = model.lm.config._attn_implementation
    for cumulative in (False, True):
        kind = replace(batch, segments=replace(batch.segments, cumulative=cumulative))
        with torch.no_grad():
            model.lm.config._attn_implementation = own
            want = losses(model, kind)
            model.lm.config._attn_implementation = "flex_attention"
            torch.testing.assert_close(losses(model, kind), want, atol=LOSS, rtol=0)


def test_one_rule_for_all() -> None:
    """fails when the rule for FlexAttention, index by index, differs from the dense mask"""
    from torch.nn.attention.flex_attention import create_mask

    segments = of(pack([text(1, 9), text(4, 18, (range(7, 10), range(10, 12)))]), text(2, 8)).segments
    assert segments is not None
    size = segments.branch.shape
    for kind in (segments, replace(segments, cumulative=True)):
        assert torch.equal(create_mask(rule(kind), size[0], 1, size[1], size[1], device="cpu")[:, 0], visible(kind))


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("mamba", "language model mamba: its layers .*carry a state.*own sequence"),
        ("jamba", "language model jamba: .* carry a state"),
        ("lfm2", "its layers of kind conv carry a state"),
        ("rwkv", "carry a state"),
        ("bloom", "ALiBi"),
        ("mpt", "ALiBi"),
    ],
)
def test_models_that_cannot_keep_segments_apart_are_an_error(family: str, words: str) -> None:
    """fails when a model that cannot separate conversations is trained on packed sequences without an error"""
    model, batch = tiny_language(family), of(pack([text(1, 4), text(2, 3)]))
    with pytest.raises(ValueError, match=words):
        losses(model, batch)
    reason = model.segments_obstacle()
    assert reason is not None and "\n" not in reason


def test_an_implementation_without_masks_is_an_error() -> None:
    """fails when attention that takes no mask, where transformers would pass none, sees across conversations"""
    model = tiny_language("llama")
    model.lm.config._attn_implementation = "my_kernel"
    reason = model.segments_obstacle()
    assert reason is not None and "'my_kernel' has no mask function" in reason and "eager, flash" in reason
    assert "model.language.attention" in reason
    with pytest.raises(ValueError, match="my_kernel"):
        losses(model, of(pack([text(1, 4), text(2, 3)])))


def test_other_obstacles() -> None:
    """fails when attention in both directions, a decoder with masks of its own, or lost positions go unnoticed"""
    model = tiny_language("llama")
    decoder, segments = model.lm.base_model, of(pack([text(1, 4), text(2, 3)])).segments
    assert model.segments_obstacle(side_texts=True) is None
    with pytest.raises(ValueError, match="segments need positions"):
        model(torch.zeros(1, 7, model.width), None, segments)
    decoder.config.is_causal = False
    assert "both directions" in str(obstacle(decoder))

    class Foreign(torch.nn.Module):
        config = tiny_language("llama").lm.config

    assert "does not take its attention masks from transformers" in str(obstacle(Foreign()))


def test_the_setting_reaches_the_model(tmp_path: Path) -> None:
    """fails when model.language.attention changes nothing, is lost with the weights, or a missing kernel is tried"""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = CausalLM.Config(architecture={"vocab_size": 8, **sizes}, attention="eager")
    built = CausalLM(config)
    built.lm.save_pretrained(tmp_path)
    loaded = CausalLM(CausalLM.Config(weights=tmp_path, attention="eager"))
    loaded.load(torch.device("cpu"), torch.float32)
    assert built.lm.config._attn_implementation == loaded.lm.config._attn_implementation == "eager"
    (problem,) = CausalLM.Config(architecture=sizes, attention="flash_attention_3").problems()
    assert not isinstance(problem, str) and problem.path == "attention" and "flash_attn_interface" in problem.message
