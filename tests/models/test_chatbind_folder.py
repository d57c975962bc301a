"""`model.language.weights` and `run.init_from` at ChatBind's merged model, as a user gives its folder to both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from chatbridge.cli.weights.command import main as weights
from chatbridge.cli.weights.published_files import published_file
from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.released import start_from
from chatbridge.models.importers.whole_language import is_same_folder
from chatbridge.models.language._causal_lm_folder import read_causal_lm
from chatbridge.models.language._llava_folder import language_settings, own_rows
from chatbridge.models.loading import load_weights
from chatbridge.models.tokenizer_loading import read_tokenizer
from tests.helpers.chatbind_release import (
    BASE,
    CONFIG,
    LLAMA,
    TOKENS,
    release_folder,
    release_settings,
    release_tensors,
)

IDS = torch.tensor([[1, 5, 9, BASE + 2, 7, BASE + 3, 30]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Path:
    return release_folder(tmp_path_factory.mktemp("release") / "chatbind-7b", reference)


@pytest.fixture(scope="module")
def model(folder: Path) -> ChatModel:
    built = ChatModel(parse(ModelConfig, release_settings(folder)))
    load_weights(built)
    said = str(start_from(built, folder))
    assert "language: was read from the same folder" in said and "bridges.projector: 2 tensors" in said
    return built.eval()


def test_it_is_the_released_model(model: ChatModel, folder: Path) -> None:
    """Fails when a row of the vocabulary moves, a logit differs from Llama's with all rows, or padding is row -1."""
    from transformers import LlamaConfig, LlamaForCausalLM

    whole = LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=BASE + 4)).eval()
    tensors = release_tensors()
    left = {name: value.float() for name, value in tensors.items() if "mm_proj" not in name and "inv_freq" not in name}
    whole.load_state_dict(left)
    with torch.no_grad():
        found = model.language.logits(model.language(model.language.embed(IDS)))
        torch.testing.assert_close(found, whole(IDS).logits, rtol=1e-5, atol=1e-5)
    assert found.shape[-1] == BASE + 4 and model.language.num_embeddings == BASE + 1
    projector = model.state_dict()["bridges.projector.output.weight"]
    assert torch.equal(projector, tensors["model.mm_projector.weight"].float())
    others = (folder.parent, folder / "other.bin")
    assert is_same_folder(model, folder / "pytorch_model.bin.index.json")
    assert not any(is_same_folder(model, path) for path in others)
    embedding, _ = model.language.vocabulary_modules
    assert embedding.padding_idx is None


def test_its_tokenizer_keeps_the_ids(model: ChatModel, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Fails when the tokens get other ids than in training, a text that reads like one becomes one, or reading the
    folder prints warnings about what is handled."""
    read_causal_lm(folder, "auto", {})
    tokenizer = read_tokenizer(model.language, TOKENS)
    assert tokenizer.added_ids == {token: BASE + 1 + number for number, token in enumerate(TOKENS)}
    assert tokenizer.pad_id == BASE
    assert "UNEXPECTED" not in (said := capfd.readouterr().err) and "llava_image_bind" not in said
    ids = tokenizer.encode("a <im_start> b")
    assert max(ids) < BASE and tokenizer.decode([*ids[:1], BASE + 2]) == tokenizer.decode(ids[:1])


def test_over_llama_it_is_the_same_model(model: ChatModel, folder: Path, tmp_path: Path) -> None:
    """Fails when run.init_from over the base model gives another one than its own folder."""
    base = tmp_path / "llama"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({**LLAMA, "model_type": "llama", "vocab_size": BASE}))
    names = {name: value[:BASE] * 0.9 for name, value in release_tensors().items() if "mm_projector" not in name}
    save_file({name: value.clone() for name, value in names.items()}, base / "model.safetensors")
    other = ChatModel(parse(ModelConfig, release_settings(base)))
    load_weights(other)
    report = str(start_from(other, folder))
    assert "language: 21 tensors" in report and "dropped: rows of [PAD]" in report
    ours, theirs = other.state_dict(), model.state_dict()
    for name, value in ours.items():
        if not name.startswith("encoders."):
            assert torch.equal(value, theirs[name][: len(value)]), name


def test_check_lists_every_tensor(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when the headers of a good folder are refused, or those of another size or without a bias pass."""
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump({"model": release_settings(folder), "run": {"init_from": str(folder)}}))
    assert weights(["check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "ok  language: loaded 21" in said and "all fit" in said
    assert "ok  bridges.projector: loaded 2" in said and "ok  added_tokens: loaded 6" in said
    tensors = release_tensors()
    for name, wrong in {
        "lacks mm_projector.bias": {key: value for key, value in tensors.items() if not key.endswith("projector.bias")},
        "24 -> 32 channels": {**tensors, "model.mm_projector.weight": torch.zeros(32, 24)},
        "missing": {key: value for key, value in tensors.items() if "layers.1.mlp.up" not in key},
    }.items():
        torch.save(wrong, tmp_path / "wrong.bin")
        path.write_text(
            yaml.safe_dump({"model": release_settings(folder), "run": {"init_from": f"{tmp_path}/wrong.bin"}})
        )
        assert weights(["check", str(path)]) == 1
        assert name in capsys.readouterr().out


def test_rows_that_are_not_known(folder: Path, tmp_path: Path, reference: Path) -> None:
    """Fails when rows of another kind are cut off, or a folder without a tokenizer is cut at a guess."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="which of its 604 embedding rows"):
        language_settings(bare)
    (bare / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 32004}))
    assert own_rows(bare, 32004) == 32001 and own_rows(bare, 32003) == 32000
    shutil.copyfile(folder / "added_tokens.json", bare / "added_tokens.json")
    with pytest.raises(ValueError, match=r"are \[601, 602, 603\] by its tokenizer, and its embedding has 606 rows"):
        own_rows(bare, 606)
    (bare / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": {}, "mm_hidden_size": 4}))
    assert language_settings(bare) is None  # of transformers' own LLaVA


def test_convert_inspect_and_list(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when the projector alone differs from the file's, or the embedding beside it is lost silently."""
    tensors = release_tensors()
    names = ("model.embed_tokens.weight", "model.mm_projector.weight", "model.mm_projector.bias")
    torch.save({name: tensors[name] for name in names}, tmp_path / "mm_projector.bin")
    for source in (folder, tmp_path / "mm_projector.bin"):
        target = tmp_path / f"{source.stem}.safetensors"
        assert weights(["convert", str(source), str(target), "--part", "linear"]) == 0
        settings = release_settings(folder)
        settings["bridges"]["projector"] = {"name": "linear", "weights": str(target)}
        model = ChatModel(parse(ModelConfig, settings))
        load_weights(model)
        assert torch.equal(model.state_dict()["bridges.projector.output.weight"], tensors[names[1]].float())
    settings["bridges"]["projector"] = {"name": "linear", "weights": str(tmp_path / "mm_projector.bin")}
    with pytest.raises(ValueError, match="rows of added tokens beside the projector: give it to run.init_from"):
        load_weights(ChatModel(parse(ModelConfig, settings)))
    for arguments, message in (([], "a whole model of ChatBind"), (["--part", "causal_lm"], "only --part linear")):
        with pytest.raises(DataError, match=message):
            weights(["convert", str(folder), str(tmp_path / "x.safetensors"), *arguments])
    capsys.readouterr()
    assert weights(["inspect", str(folder), "--match", "norm.weight"]) == 0
    assert "ChatBind's weights (the merged model)" in capsys.readouterr().out


def test_published_files() -> None:
    """Fails when a file of ChatBind is listed without its licence, or as another one."""
    for path, name in (
        ("weights/imagebind_huge.pth", "ImageBind-Huge"),
        ("weights/chatbind-7b-delta", "ChatBind-7B delta"),
        ("weights/chatbind-7b-pretrain-projector", "ChatBind projector"),
        ("weights/chatbind-7b", "ChatBind-7B"),
        ("folder of Vicuna-7B v0; or the released ChatBind-7B", "Vicuna-7B v0"),
    ):
        found = published_file(path)
        assert found is not None and found.name == name and found.licence
