"""Reading a language model's folder without its decoder layers, whose rows come later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.config.schema import parse
from chatbridge.models.config import ModelConfig
from chatbridge.models.language._sharded_files import TensorFiles, is_placeholder, placeholder
from chatbridge.models.language.base import LanguageModel
from tests.helpers.tiny_models import model_mapping

CPU = torch.device("cpu")


def folder_of(path: Path, shard_size: str = "10GB", **sizes: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    given = {"vocab_size": 50, "hidden_size": 20, "intermediate_size": 33, "num_hidden_layers": 2,
             "num_attention_heads": 2, "eos_token_id": 2, **sizes}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**given)).save_pretrained(path, max_shard_size=shard_size)
    return path


def language(folder: Path, trainable: str = "nothing", **settings: Any) -> LanguageModel:
    config = parse(
        ModelConfig, model_mapping(language={"name": "causal_lm", "weights": str(folder), **settings}, trainable=["*"])
    ).language
    model = config.part(config.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable in name)
    return model


def same_as_loaded(one: LanguageModel, folder: Path, dtype: torch.dtype = torch.float32) -> bool:
    """Whether everything outside the layers, buffers included, equals what transformers reads."""
    whole = language(folder)
    whole.load(CPU, dtype)
    inside = {id(p) for p in one.decoder_layers.parameters()}
    own, other = dict(one.named_parameters()), dict(whole.named_parameters())
    outside = [name for name, parameter in own.items() if id(parameter) not in inside]
    buffers = zip(one.named_buffers(), whole.named_buffers(), strict=True)
    return (
        own.keys() == other.keys()
        and bool(outside)
        and all(torch.equal(own[name], other[name]) and own[name].dtype == other[name].dtype for name in outside)
        and all(name == twin and torch.equal(value, again) for (name, value), (twin, again) in buffers)
    )


@pytest.mark.parametrize("shard_size", ["10GB", "10KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_get_placeholders_and_rows_on_demand(tmp_path, shard_size, dtype):
    """fails when layers are read, the rest is not, buffers are not computed, or rows are of another tensor or place"""
    model = language(folder_of(tmp_path, shard_size), trainable="layers.1.")
    line = model.load_outside_layers(CPU, dtype)
    assert "each rank reads its rows of the 2 decoder layers" in line
    assert same_as_loaded(model, tmp_path, dtype)
    whole = language(tmp_path)
    whole.load(CPU, torch.float32)
    state = whole.state_dict()
    assert model.unread is not None
    for number, layer in enumerate(model.decoder_layers):
        for name, parameter in layer.named_parameters():
            assert is_placeholder(parameter) and parameter.requires_grad == (number == 1)
            assert parameter.dtype == (torch.float32 if number == 1 else dtype)
            full = f"lm.model.layers.{number}.{name}"
            assert torch.equal(model.unread(full, 3, 8), state[full][3:8])


def test_a_placeholder_takes_the_memory_of_one_value():
    """fails when a layer of a large model takes memory before its rows are read"""
    tensor = placeholder((1 << 20, 1 << 20), torch.float32, CPU)
    assert tensor.shape == (1 << 20, 1 << 20) and tensor.untyped_storage().nbytes() == 4
    assert is_placeholder(tensor) and not is_placeholder(torch.zeros(3, 3))


def test_tied_embeddings_and_a_prefix_of_all_names_are_understood(tmp_path):
    """fails when the head of a tied model stays without values, or a wrapper's prefix makes every rank read it all"""
    from safetensors.torch import load_file, save_file

    tied = language(folder_of(tmp_path / "tied", tie_word_embeddings=True))
    tied.load_outside_layers(CPU, torch.float32)
    embedding, head = tied.vocabulary_modules
    assert head.weight is embedding.weight and not head.weight.is_meta
    assert same_as_loaded(tied, tmp_path / "tied")
    file = folder_of(tmp_path / "prefixed") / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    prefixed = language(tmp_path / "prefixed")
    assert "prefix 'module.'" in prefixed.load_outside_layers(CPU, torch.float32)
    assert same_as_loaded(prefixed, tmp_path / "prefixed") and prefixed.unread is not None
    assert prefixed.unread("lm.model.layers.1.mlp.up_proj.weight", 0, 2).shape == (2, 20)


def test_files_of_torch_are_read_by_rows_unless_they_are_older_than_its_zip_format(tmp_path):
    """fails when ranks read all of a folder of .bin files, or do so without telling where it cannot be helped"""
    from safetensors.torch import load_file

    file = folder_of(tmp_path) / "model.safetensors"
    state = load_file(file)
    file.unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = language(tmp_path)
    assert "each rank reads its rows" in model.load_outside_layers(CPU, torch.float32)
    assert same_as_loaded(model, tmp_path) and model.unread is not None
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(model.unread(f"lm.{name}", 3, 8), state[name][3:8])
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    model = language(tmp_path)
    line = model.load_outside_layers(CPU, torch.float32)
    assert "every rank read all of it: pytorch_model.bin is truncated, or has the format" in line
    assert model.unread is None and not any(is_placeholder(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("is_pickled", [True, False])
def test_a_merged_model_with_a_projector_is_read_by_rows(tmp_path, is_pickled):
    """fails when ranks read all of ChatBind's merged folder, or its rows of added tokens enter the language model"""
    from safetensors.torch import load_file, save_file

    file = folder_of(tmp_path, vocab_size=53) / "model.safetensors"
    state = load_file(file) | {
        "model.mm_projector.weight": torch.ones(20, 9),
        "model.mm_projector.bias": torch.ones(20),
    }
    file.unlink()
    if is_pickled:
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, file, {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llava_image_bind_select"}))
    tokens = {"<im_patch>": 50, "<im_start>": 51, "<im_end>": 52}
    (tmp_path / "added_tokens.json").write_text(json.dumps(tokens))
    model = language(tmp_path)
    assert "each rank reads its rows" in model.load_outside_layers(CPU, torch.float32)
    assert [len(module.weight) for module in model.vocabulary_modules] == [50, 50]
    assert same_as_loaded(model, tmp_path)
    del state["model.norm.weight"]
    (save_file if not is_pickled else torch.save)(state, file if not is_pickled else tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"missing: model.norm.weight|lm.model.norm.weight|norm.weight"):
        language(tmp_path).load_outside_layers(CPU, torch.float32)


@pytest.mark.parametrize("harm", ["missing tensor", "truncated", "missing file", "other shape"])
def test_a_damaged_folder_is_refused_as_by_a_whole_reading(tmp_path, harm):
    """fails when a rank trains on rows of a folder that does not fill the model"""
    from safetensors.torch import load_file, save_file

    folder_of(tmp_path, shard_size="20KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    state = load_file(files[-1])
    if harm == "truncated":
        files[-1].write_bytes(files[-1].read_bytes()[:-40])
    elif harm == "missing file":
        files[-1].unlink()
    else:
        name = next(name for name in state if state[name].ndim == 2)
        state[name] = torch.zeros(3, 3)
        if harm == "missing tensor":
            del state[name]
            index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
            del index["weight_map"][name]
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        save_file(state, files[-1], {"format": "pt"})
    with pytest.raises(ValueError, match=str(tmp_path)):
        language(tmp_path).load_outside_layers(CPU, torch.float32)


def test_bytes_are_counted(tmp_path):
    """fails when the count of read bytes, which shows what a rank reads, leaves something out"""
    files = TensorFiles(folder_of(tmp_path, shard_size="10KB"))
    files.rows("model.layers.0.mlp.up_proj.weight", 1, 4)
    files.rows("model.norm.weight")
    assert files.bytes_read == 4 * (3 * 20 + 20)
