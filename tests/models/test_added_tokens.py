"""model.added_tokens: added tokens of a frozen vocabulary, trainable and saved by token."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chatbridge.common.errors import ConfigError
from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.language import GenerateOptions
from chatbridge.models.tokenizer_loading import known_already, slot_ids
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import LANGUAGE, batch, model_mapping, tiny_model
from tests.helpers.tolerances import FP32

TOKENS = ("<image>", "[END]")
LLAMA = LANGUAGE["architecture"]
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 20, "n_layer": 1, "n_head": 2, "eos_token_id": 2}
GEMMA = {
    "model_type": "gemma3_text", "vocab_size": 50, "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 10, "final_logit_softcapping": 0.5,
}  # fmt: skip


def language(architecture: dict[str, Any]) -> dict[str, Any]:
    return {"name": "causal_lm", "architecture": architecture}


def model_with_tokens(architecture: dict[str, Any]) -> ChatModel:
    model = tiny_model(added_tokens=TOKENS, language=language(architecture)).eval()
    draw = torch.Generator().manual_seed(3)
    for row in added_rows(model).values():
        torch.nn.init.normal_(row, generator=draw)
    return model


def added_rows(model: ChatModel) -> dict[str, torch.Tensor]:
    return {name: row for name, row in model.state_dict().items() if name.startswith("added_tokens")}


def with_tokens(whole: Batch) -> Batch:
    """The batch with the first added token at its beginning and among its answers, the second supervised in the end."""
    ids, target = whole.ids.clone(), whole.target.clone()
    ids[:, 0], target[-1] = 50, 51
    ids.view(-1)[whole.predict_at[0]] = 50  # its own state counts: embeddings enter attention after a norm
    return replace(whole, ids=ids, target=target)


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, GEMMA], ids=["llama", "gpt2", "gemma3"])
def test_added_rows_equal_a_resized_language_model(architecture: dict[str, Any]) -> None:
    """Fails when the loss, an answer or one with beams differs from a language model whose tables have these rows, tied
    or not, scaled or capped."""
    model = model_with_tokens(architecture)
    resized = tiny_model(language=language(architecture)).eval()
    resized.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("added_tokens")})
    lm = resized.language.lm
    lm.resize_token_embeddings(52, mean_resizing=False)
    with torch.no_grad():
        lm.get_input_embeddings().weight[50:] = model.added_tokens.embedding()
        lm.get_output_embeddings().weight[50:] = model.added_tokens.head()
    whole = with_tokens(batch(model, ("image", "audio")))
    torch.testing.assert_close(model(whole).total, resized(whole).total, atol=FP32, rtol=FP32)
    for num_beams in (1, 2):
        options = GenerateOptions(max_new_tokens=8, num_beams=num_beams)
        answers = model.generate(whole, options)
        assert answers == resized.generate(whole, options)
        assert any(number >= 50 for answer in answers for number in answer), "no answer holds an added token"


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=["untied", "tied"])
def test_a_step_moves_the_rows_of_the_named_token_alone(architecture: dict[str, Any]) -> None:
    """Fails when a pattern cannot name the rows of one token, or a step moves anything else."""
    model = model_with_tokens(architecture)
    names = ["added_tokens.embedding.[END]", "added_tokens.head.[END]"]
    set_trainable(model, names)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    whole = with_tokens(batch(model, ("image",)))
    whole.ids[0, 0] = 51
    model(whole).total.backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(names)


def test_tokens_start_as_the_mean_of_the_vocabulary() -> None:
    """Fails when a start value depends on anything but the language model's own rows."""
    model = tiny_model(added_tokens=TOKENS)
    embedding, head = model.language.vocabulary_modules
    for token in TOKENS:
        torch.testing.assert_close(added_rows(model)[f"added_tokens.embedding.{token}"], embedding.weight.mean(0))
        torch.testing.assert_close(added_rows(model)[f"added_tokens.head.{token}"], head.weight.mean(0))
    assert added_rows(tiny_model()) == {}


@pytest.mark.parametrize(
    ("tokens", "at", "message"),
    [
        (["<image>", "<image>"], 1, "twice"),
        (["<a.b>"], 0, "cannot name a tensor"),
        (["train"], 0, "cannot name a tensor"),
        (["fill"], 0, "cannot name a tensor"),
        ([" <image>"], 0, "space"),
    ],
)
def test_tokens_that_cannot_be_added_are_reported(tokens: list[str], at: int, message: str) -> None:
    """Fails when a token that no tensor can be named by is found by a bare traceback."""
    with pytest.raises(ConfigError, match=message) as error:
        parse(ModelConfig, model_mapping(added_tokens=tokens), path="model")
    assert [problem.path for problem in error.value.problems] == [f"model.added_tokens[{at}]"]


def tokenizer(added: tuple[str, ...] = TOKENS, special: tuple[str, ...] = (), num_rows: int = 300) -> Tokenizer:
    """One id per byte, plus `special` ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    inner = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    inner.add_tokens(list(special), special_tokens=True)
    return Tokenizer(inner, num_rows, added)


def test_words_that_read_like_an_added_token_stay_words() -> None:
    """Fails when a user's text becomes an added token, or one of an answer becomes plain text, also in a loader
    worker."""
    for one in (tokenizer(), pickle.loads(pickle.dumps(tokenizer()))):
        assert one.added_ids == {"<image>": 300, "[END]": 301}
        ids = one.encode("a <image> [END]")
        assert max(ids) < 300 and one.decode(ids) == "a <image> [END]"
        assert one.decode([*ids[:1], 300, 301]) == "a"


def test_a_token_that_the_tokenizer_has_is_reported(tmp_path: Path) -> None:
    """Fails when a token has two ids, or the message has no next step."""
    (problem,) = known_already(tokenizer(special=("<image>",)), tmp_path)
    assert problem.path == "model.added_tokens[0]" and "remove it" in str(problem.hint)
    (problem,) = known_already(tokenizer(special=("<image>",), num_rows=257), tmp_path)
    assert "beyond the 257 embedding rows" in str(problem.hint)
    assert known_already(tokenizer(), tmp_path) == []


def test_a_template_writes_added_tokens_by_name() -> None:
    """Fails when a template cannot end an answer with an added token, or text becomes one."""
    made = tokenizer()
    writer = SpanWriter(made.encode, {}, Layout(build_template("vicuna_v0"), made, {})._specials)
    writer.answer("[END]", supervised=True, end="[END]")
    (span,) = writer.spans()
    assert span.ids == (*made.encode("[END]"), 301) and span.supervised


def test_slots_hold_the_id_of_their_token() -> None:
    """Fails when a layout writes padding where a fusion names a token, or an unknown token is not reported."""
    made = tokenizer()
    slots = slot_ids({"image": "<image>"}, made)
    layout = Layout(build_template("vicuna_v0"), made, {"image": 1, "audio": 2}, slot_ids=slots)
    row = layout.training_sequence((user("see ", Media("image", "a.jpg"), Media("audio", "a.wav")), assistant("yes")))
    (image, audio) = row.media_slots
    assert row.ids[image.start] == 300 and row.ids[audio.start : audio.start + 2] == [made.pad_id] * 2
    assert layout.stop_ids == Layout(build_template("vicuna_v0"), tokenizer(()), {}).stop_ids
    with pytest.raises(ConfigError, match=r"'<audio>'.*does not have") as error:
        slot_ids({"audio": "<audio>"}, made)
    assert "model.added_tokens" in str(error.value)
    assert slot_ids({"image": "</s>"}, made) == {"image": made.eos_id}
