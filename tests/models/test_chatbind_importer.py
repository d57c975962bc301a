"""ChatBind's released weights, rebuilt small, as users load them: `run.init_from: FILE or FOLDER`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import carried_tensors, trainable_parameters
from chatbridge.models.importers import chatbind_rows
from chatbridge.models.importers.released import is_released_file, start_from
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import LANGUAGE, VISION, tiny_model

WIDTH, FEATURES, ROWS = 20, 24, 50  # of the language model, of the encoder, and of LLaMA's vocabulary
TOKENS = ("<im_patch>", "<im_start>", "<im_end>")
ALL = ("[PAD]", *TOKENS)


def chatbind(rows: int = ROWS, tokens: tuple[str, ...] = TOKENS, **changes: Any) -> ChatModel:
    sizes = {**LANGUAGE["architecture"], "vocab_size": rows}
    return tiny_model(
        encoders={"vision": VISION},
        bridges={"projector": {"name": "linear"}},
        language={**LANGUAGE, "architecture": sizes},
        routes={"image": {"encoder": "vision", "bridge": "projector"}},
        added_tokens=list(tokens),
        **changes,
    )


def released(num_added: int = 4, seed: int = 1) -> dict[str, Tensor]:
    """The names of the merged model of 2023, with the buffers that transformers wrote then."""
    torch.manual_seed(seed)
    lm: Any = chatbind(ROWS + num_added, ()).language.lm
    names = {key: torch.randn_like(value).half() for key, value in lm.state_dict().items()}
    buffers = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(5) for n in range(2)}
    projector = {
        "model.mm_projector.weight": torch.randn(WIDTH, FEATURES).half(),
        "model.mm_projector.bias": torch.randn(WIDTH).half(),
    }
    return names | buffers | projector


def projector_file(model: ChatModel, num_rows: int, **changes: Tensor) -> dict[str, Tensor]:
    """What stage 1 wrote: the embedding first, its last two rows trained, then the projector."""
    base = model.language.vocabulary_modules[0].weight.detach()
    torch.manual_seed(2)
    whole = torch.cat([base, torch.randn(max(0, num_rows - len(base)), WIDTH)])
    return {
        "model.embed_tokens.weight": whole[-num_rows:].clone().bfloat16(),
        "model.mm_projector.weight": torch.randn(WIDTH, FEATURES),
        "model.mm_projector.bias": torch.randn(WIDTH),
    } | changes


def saved(path: Path, tensors: Any) -> Path:
    torch.save(tensors, path)
    return path


def folder_of(path: Path, tensors: dict[str, Tensor], ids: dict[str, int] | None = None) -> Path:
    """A folder of the reference's trainer or of apply-delta: shards, index, config, and the tokens' ids."""
    path.mkdir()
    table = {name: f"pytorch_model-0000{number % 2 + 1}-of-00002.bin" for number, name in enumerate(tensors)}
    for file in set(table.values()):
        torch.save({name: value for name, value in tensors.items() if table[name] == file}, path / file)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    (path / "config.json").write_text(json.dumps({"model_type": "llava_image_bind_select"}))
    if ids is not None:
        (path / "added_tokens.json").write_text(json.dumps(ids))
    return path


def values(model: ChatModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: ChatModel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("num_rows", [2, ROWS + 3, ROWS + 4])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_projector_of_stage_1(tmp_path: Path, num_rows: int, prefix: str) -> None:
    """Fails when the two tensors named `weight` are mixed up, other rows than the last two are taken, or the rows of
    the base or of the head change."""
    model = chatbind()
    tensors, before = projector_file(model, num_rows), values(model)
    report = start_from(model, saved(tmp_path / "p.bin", {prefix + name: one for name, one in tensors.items()}))
    after = model.state_dict()
    assert changed(model, before) == {
        "bridges.projector.output.weight", "bridges.projector.output.bias",
        "added_tokens.embedding.<im_start>", "added_tokens.embedding.<im_end>",
    }  # fmt: skip
    assert torch.equal(after["bridges.projector.output.weight"], tensors["model.mm_projector.weight"])
    assert torch.equal(after["bridges.projector.output.bias"], tensors["model.mm_projector.bias"])
    rows = tensors["model.embed_tokens.weight"][-2:].float()
    assert torch.equal(after["added_tokens.embedding.<im_start>"], rows[0])
    assert torch.equal(after["added_tokens.embedding.<im_end>"], rows[1])
    assert "rows of <im_start> and <im_end>" in str(report)


def test_a_downloaded_folder_with_one_file_is_taken(tmp_path: Path) -> None:
    """Fails when the folder of the hub must be opened by hand, or a folder of ours passes for a released one."""
    model = chatbind()
    tensors = projector_file(model, 2)
    saved(tmp_path / "chatbind-7b-pretrain.bin", tensors)
    (tmp_path / "README.md").write_text("")
    assert is_released_file(tmp_path)
    start_from(model, tmp_path)
    assert torch.equal(model.state_dict()["bridges.projector.output.bias"], tensors["model.mm_projector.bias"])
    (tmp_path / "checkpoints").mkdir()
    assert not is_released_file(tmp_path)


@pytest.mark.parametrize(
    ("rows", "tokens", "num_added", "ids"),
    [
        (ROWS, TOKENS, 4, ALL),  # over LLaMA: the row of [PAD] has no place
        (ROWS, ALL, 4, None),  # over LLaMA with all tokens, by position
        (ROWS + 1, TOKENS, 4, None),  # over Vicuna v0, which has a row of [PAD]
        (ROWS + 1, TOKENS, 3, TOKENS),  # version v1 over Vicuna v0: its row of [PAD] stays
        (ROWS, TOKENS[::-1], 4, ALL),  # the order of the YAML does not matter
    ],
)
def test_the_merged_model(
    tmp_path: Path, rows: int, tokens: tuple[str, ...], num_added: int, ids: tuple[str, ...] | None
) -> None:
    """Fails when a tensor of the folder does not arrive, or a row goes to another token."""
    model, tensors = chatbind(rows, tokens), released(num_added)
    before = values(model)
    numbers = None if ids is None else {token: ROWS + number for number, token in enumerate(ids)}
    report = str(start_from(model, folder_of(tmp_path / "chatbind-7b", tensors, numbers)))
    after = model.state_dict()
    names = ids or (ALL if num_added == 4 else TOKENS)
    for part, name in (("embedding", "model.embed_tokens.weight"), ("head", "lm_head.weight")):
        whole = tensors[name].float()
        for token in tokens:
            assert torch.equal(after[f"added_tokens.{part}.{token}"], whole[ROWS + names.index(token)]), token
        own = after[f"language.lm.{name}"]
        assert torch.equal(own[:ROWS], whole[:ROWS])
        if rows > ROWS:
            kept = before[f"language.lm.{name}"][ROWS] if num_added == 3 else whole[ROWS]
            assert torch.equal(own[ROWS], kept)
    for name, value in tensors.items():
        if name.startswith(("model.layers.", "model.norm.")) and not name.endswith("inv_freq"):
            assert torch.equal(after[f"language.lm.{name}"], value.float()), name
    assert torch.equal(after["bridges.projector.output.weight"], tensors["model.mm_projector.weight"].float())
    assert "dropped: 2 tensors" in report
    assert ("dropped: rows of [PAD]" in report) == (rows == ROWS and "[PAD]" not in tokens)


def test_both_forms_give_the_same_model(tmp_path: Path) -> None:
    """Fails when a DeepSpeed file, a single file or an index gives another model than the folder."""
    tensors = released()
    folder = folder_of(tmp_path / "whole", tensors)
    paths = [
        folder / "pytorch_model.bin.index.json",
        saved(tmp_path / "mp_rank_00_model_states.pt", {"module": tensors, "epoch": 1}),
        saved(tmp_path / "one.bin", {f"_orig_mod.{name}": value for name, value in tensors.items()}),
    ]
    expected = chatbind(ROWS + 1)
    start_from(expected, folder)
    for path in paths:
        model = chatbind(ROWS + 1)
        start_from(model, path)
        assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items()), path


def test_frozen_tensors_of_it_go_into_the_checkpoints(tmp_path: Path) -> None:
    """Fails when a run over another base loses what the file gave its frozen parts, and is not told of a better way."""
    model = chatbind(ROWS + 1)
    set_trainable(model, ["bridges.projector.*", "added_tokens.embedding.<im_start>"])
    said = str(start_from(model, folder_of(tmp_path / "whole", released())))
    held = set(carried_tensors(model))
    assert "added_tokens.embedding.<im_end>" in held and "language.lm.lm_head.weight" in held
    assert not held & trainable_parameters(model).keys() and len(held) == 21 + 5
    assert f"note: model.language.weights={tmp_path / 'whole'}" in said


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name not in names}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Fails when another width, another base, another vocabulary, half a file or an unknown tensor passes, or a
    refused file has changed the model."""
    model = chatbind(ROWS + 1)
    file, whole = projector_file(model, ROWS + 4), released()
    other = chatbind(ROWS + 1)
    other.language.vocabulary_modules[0].weight.data *= torch.rand(WIDTH) + 0.5
    cases: dict[str, tuple[dict[str, Tensor], str]] = {
        "wide": ({**file, "model.mm_projector.weight": torch.randn(32, FEATURES)}, "24 -> 32 channels.*24 -> 20"),
        "clip": ({**file, "model.mm_projector.weight": torch.randn(WIDTH, 1024)}, "1024 -> 20 channels.*24 -> 20"),
        "nan": ({**file, "model.mm_projector.bias": torch.full((WIDTH,), float("nan"))}, "20 of the 20 values of outp"),
        "inf": ({**file, "model.embed_tokens.weight": torch.full((2, WIDTH), float("inf"))}, "not numbers"),
        "vector": ({**file, "model.embed_tokens.weight": torch.ones(9)}, r"its embedding has shape \[9\]"),
        "cube": ({**file, "model.mm_projector.weight": torch.ones(WIDTH, FEATURES, 1)}, "its projector has shape"),
        "mlp": ({"model.mm_projector.0.weight": torch.randn(2, 2)}, "several layers"),
        "base": (projector_file(other, ROWS + 4), "first 50 rows of its embedding are not those of language"),
        "vocabulary": (projector_file(model, ROWS + 9), "59 rows, expected 2, or 2 to 4 more than the 51"),
        "no bias": (without(file, "model.mm_projector.bias"), "lacks mm_projector.bias"),
        "no head": (without(whole, "lm_head.weight"), "lacks lm_head.weight"),
        "no layer": (without(whole, "model.layers.1.mlp.up_proj.weight"), "missing.*layers.1.mlp.up_proj.weight"),
        "more": ({**whole, "model.layers.2.mlp.up_proj.weight": torch.randn(2, 2)}, "unexpected.*layers.2.mlp"),
        "odd": ({**file, "model.surprise": torch.ones(1)}, "unexpected tensors: surprise"),
        "rows": (released(5), "55 rows, language has 51 and 3 added tokens; which rows"),
        "outside": ({**{f"module.{name}": one for name, one in file.items()}, "lm_head.weight": torch.ones(1)},
                    "begins with 'module.'"),
    }  # fmt: skip
    before = values(model)
    for name, (tensors, message) in cases.items():
        with pytest.raises(ValueError, match=f"(?s){message}"):
            start_from(model, saved(tmp_path / f"{name}.bin", tensors))
        assert changed(model, before) == set(), name


def test_tokens_that_are_not_there(tmp_path: Path) -> None:
    """Fails when a model loses trained rows silently, or takes rows that the file does not have."""
    whole = released()
    untold = folder_of(tmp_path / "untold", whole, {"[PAD]": ROWS + 3, "<im_patch>": ROWS + 2})
    with pytest.raises(ValueError, match="no row of <im_start>, <im_end> .the tokenizer beside it"):
        start_from(chatbind(), untold)
    file = saved(tmp_path / "p.bin", projector_file(chatbind(), 2))
    with pytest.raises(ValueError, match="add to model.added_tokens: <im_start>, <im_end>"):
        start_from(chatbind(tokens=()), file)
    alone = saved(tmp_path / "alone.bin", without(projector_file(chatbind(), 2), "model.embed_tokens.weight"))
    assert "keep their initial values" in str(start_from(chatbind(), alone))
    beyond = folder_of(tmp_path / "beyond", whole, {"<im_patch>": 51, "<im_start>": 52, "<im_end>": 54})
    with pytest.raises(ValueError, match="gives <im_end> the id 54, but it has 54 rows"):
        start_from(chatbind(), beyond)


def test_a_folder_of_deepspeed_parts_or_of_a_language_model(tmp_path: Path) -> None:
    """Fails when the message does not give the next step."""
    (tmp_path / "parts" / "global_step5").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no checkpoints in it.*join them with zero_to_fp32.py"):
        start_from(chatbind(), tmp_path / "parts")
    plain = {name: value for name, value in released().items() if "mm_projector" not in name}
    with pytest.raises(ValueError, match="without a projector; set model.language.weights"):
        start_from(chatbind(), folder_of(tmp_path / "llama", plain))


def test_rows_of_known_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails when 32,004 and 32,003 rows are not told apart without a tokenizer."""
    model = chatbind()
    for num_rows, first in ((32004, 32001), (32003, 32000)):
        rows = chatbind_rows.token_rows(model, num_rows, tmp_path / "pytorch_model.bin")
        assert [rows[token] for token in TOKENS] == [first, first + 1, first + 2]
    for num_rows in (32002, 32001):
        with pytest.raises(ValueError, match="no row of <im_start>, <im_end>"):
            chatbind_rows.token_rows(model, num_rows, tmp_path / "pytorch_model.bin")
