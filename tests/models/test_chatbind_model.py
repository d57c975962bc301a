"""ChatBind's parts together, small: one vector per item, marks around it, and rows that train alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.common.types import Batch, Sample
from chatbridge.config.schema import parse
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Media, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.datasets.collate import collate
from chatbridge.experiment.build import Built
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.manifest_check import template_differences
from chatbridge.models.trainable import set_trainable, trainable_report
from tests.helpers.tiny_models import model_mapping, tiny_model

ADDED = ["<im_patch>", "<im_start>", "<im_end>"]
ROWS, WIDTH = 400, 20  # of the language model
FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
STAGE_1 = ("bridges.projector.*", "added_tokens.embedding.<im_start>", "added_tokens.embedding.<im_end>")
IMAGE = Media("image", "x")


def settings(repeat: int = 1, **changes: Any) -> dict[str, Any]:
    """The `model:` node of a small ChatBind; keyword arguments replace its keys."""
    sizes = {
        "vocab_size": ROWS, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 256, "eos_token_id": 2, "bos_token_id": 1,
    }  # fmt: skip
    vision = {"width": 16, "depth": 1, "heads": 2, "image_size": 28, "patch_size": 14}
    return model_mapping(**{
        "encoders": {"imagebind": {"name": "imagebind", "out_width": 24, "vision": vision}},
        "bridges": {"projector": {"name": "linear", "repeat": repeat}},
        "language": {"name": "causal_lm", "architecture": sizes, "template": "chatbind_v0"},
        "routes": {"image": {"encoder": "imagebind", "bridge": "projector"}},
        "added_tokens": ADDED,
        "random_init_tokens": ["<im_patch>"],
        **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return tiny_model(**settings()).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER, ROWS, ADDED)


def batch_of(model: ChatModel, tokenizer: Tokenizer, *conversations: Conversation, version: str = "v0") -> Batch:
    """A batch with different random images."""
    layout = Layout(build_template(f"chatbind_{version}"), tokenizer, model.media_lengths())
    draw = torch.Generator().manual_seed(3)
    samples = [
        Sample(str(at), "s", turns, tuple(torch.randn(3, 28, 28, generator=draw) for one in turns for _ in one.media))
        for at, turns in enumerate(conversations)
    ]
    return collate(samples, layout)


WITH_IMAGE = (user("What is this?", IMAGE), assistant("A red circle."))
TEXT_ONLY = (user("Say it in one word."), assistant("Noise."))


def test_stage_1_trains_the_projector_and_two_rows(model: ChatModel, tokenizer: Tokenizer) -> None:
    """Fails when a text-only row, or the words around an image, leak gradient into other embeddings."""
    report = set_trainable(model, STAGE_1)
    assert report.num_trainable == 24 * WIDTH + WIDTH + 2 * WIDTH
    try:
        for rows in ((WITH_IMAGE, TEXT_ONLY), (TEXT_ONLY,)):
            model.zero_grad(set_to_none=True)
            loss = model(batch_of(model, tokenizer, *rows))
            if rows == (TEXT_ONLY,) and not loss.total.requires_grad:
                continue
            loss.total.backward()
            found = {name for name, one in model.named_parameters() if one.grad is not None and bool(one.grad.any())}
            assert found == (set() if rows == (TEXT_ONLY,) else set(trainable_report(model).names))
    finally:
        set_trainable(model, ())


@torch.no_grad()
def test_every_image_of_a_sample_counts(model: ChatModel, tokenizer: Tokenizer) -> None:
    """Fails when only the last image reaches the language model, as in the reference, or images change places."""
    turns = (user(IMAGE, "and", IMAGE, "and", IMAGE), assistant("Two beats."))
    batch = batch_of(model, tokenizer, turns, TEXT_ONLY, WITH_IMAGE)
    tokens = model.media_tokens(batch.media)["image"][:, 0]  # [4, D]
    embeds = model.prepared(batch)[0].flatten(0, 1)[batch.media_slots["image"][:, 0]]  # [4, D]
    assert torch.equal(embeds, tokens)
    assert len(tokens.unique(dim=0)) == 4
    before = batch.media_slots["image"][:, 0] - 1
    assert (batch.ids.flatten()[before] == ROWS + 1).all()


@torch.no_grad()
def test_a_repeated_feature_fills_its_positions(model: ChatModel, tokenizer: Tokenizer) -> None:
    """Fails when `repeat` changes the layer, or its tokens differ."""
    three = tiny_model(**settings(repeat=3)).eval()
    three.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 28, 28)
    one, more = (part.media_tokens({"image": image})["image"] for part in (model, three))
    assert three.media_lengths() == {"image": 3}
    assert torch.equal(more, one.expand(2, 3, WIDTH))
    row = batch_of(three, tokenizer, WITH_IMAGE)
    slots = row.media_slots["image"][0].tolist()
    assert slots == list(range(slots[0], slots[0] + 3))
    assert row.ids[0, slots[0] - 1] == ROWS + 1 and row.ids[0, slots[-1] + 1] == ROWS + 2


def test_rows_start_at_the_mean_or_random() -> None:
    """Fails when a random row is not the same in every process, another row is random, or the run's numbers move."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    models = [tiny_model(**settings()), tiny_model(**settings(random_init_tokens=[]))]
    rows: Any = models[0].added_tokens
    torch.random.set_rng_state(before)
    torch.manual_seed(9)
    rows.start(models[0].language)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(9)))
    for name, module in zip(("embedding", "head"), models[0].language.vocabulary_modules, strict=True):
        kept = {token: getattr(rows, name).get_parameter(token) for token in ADDED}
        mean = module.weight.double().mean(0).float()
        torch.testing.assert_close(kept["<im_start>"], mean)
        torch.testing.assert_close(kept["<im_end>"], mean)
        assert 0.01 < float(kept["<im_patch>"].detach().std()) < 0.04
        plain: Any = models[1].added_tokens
        torch.testing.assert_close(getattr(plain, name).get_parameter("<im_patch>"), mean)


def test_misspelt_tokens_and_positions_are_refused() -> None:
    """Fails when a random token that is not added, or no positions at all, pass."""
    with pytest.raises(ConfigError, match=r"(?s)model\.random_init_tokens\[0\].*did you mean <im_patch>\?"):
        parse(ModelConfig, settings(random_init_tokens=["<im_pach>"]), path="model")
    with pytest.raises(ConfigError, match=r"(?s)model\.bridges\.projector\.repeat.*at least 1"):
        parse(ModelConfig, settings(repeat=0), path="model")


def test_the_prompt_of_an_evaluation_is_its_own(tokenizer: Tokenizer) -> None:
    """Fails when an evaluation cannot choose another prompt than the training's, or another format passes."""
    language = {**settings()["language"], "template_settings": {"prompt": "simple"}}
    built = Built(tiny_model(**settings(language=language)), trainable_report(tiny_model(**settings())))
    built.__dict__["tokenizer"] = tokenizer
    recorded = {
        "name": "chatbind_v0",
        "prompt": "auto",
        "labels": "released",
        "start_end_tokens": True,
        "training_system": "Chat.",
    }
    built.template = recorded
    config: Any = built.layout("chatbind_v0").template.config
    assert (config.prompt, config.training_system) == ("simple", "Chat.")
    own = {"prompt": "simple", "labels": "corrected", "start_end_tokens": False, "training_system": "Chat."}
    assert [one.path for one in template_differences("chatbind_v0", recorded, own)] == ["template.start_end_tokens"]


def test_the_last_row_trains_where_the_padding_id_is_no_row(tokenizer: Tokenizer) -> None:
    """Fails when a configuration with pad_token_id -1, as LLaMA's first one, takes the gradient from the last row."""
    language = settings()["language"]
    sizes = {**language["architecture"], "pad_token_id": -1}
    model = tiny_model(**settings(language={**language, "architecture": sizes}))
    set_trainable(model, ("language.*",))
    batch = batch_of(model, tokenizer, TEXT_ONLY)
    batch.ids[0, 1] = ROWS - 1
    model(batch).total.backward()
    assert model.language.vocabulary_modules[0].weight.grad[ROWS - 1].any()
