"""config.json and the tokenizer of a model in ChatBind's layout, for transformers 4.28 and the reference's code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.cli.export_parts import TOKENIZER_FILES
from chatbridge.cli.weights.shard_writer import write_json
from chatbridge.common.safe_files import replace_text
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.importers.chatbind import projector_of
from chatbridge.models.language._llava_folder import PAD, read_mapping, rows_in_folder

KEPT = (  # settings of a Llama that its code of 2023 knows
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps", "hidden_act",
    "max_position_embeddings", "initializer_range", "bos_token_id", "eos_token_id", "tie_word_embeddings",
)  # fmt: skip
MARKER = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


def release_settings(model: ChatModel, tokens: tuple[str, ...], embedding: Tensor) -> dict[str, Any]:
    """The content of config.json.

    embedding   float[R, D], whose dtype the model is read in
    raises      ValueError when the language model is not a Llama as of 2023
    """
    language: Any = model.language
    config = language.lm.config
    if reason := _newer(config):
        raise ValueError(f"the layout of ChatBind is for a LLaMA of 2023; the language model {reason}")
    name = projector_of(model)
    columns = model.bridges[name].state_dict()["output.weight"].shape[1]
    first = language.num_embeddings
    pad = first + tokens.index(PAD) if PAD in tokens else rows_in_folder(_tokenizer(model)).get(PAD, 0)
    return {
        **{key: getattr(config, key) for key in KEPT},
        "model_type": "llava_image_bind_select",
        "architectures": ["LlavaLlamaImageBindSelectForCausalLM"],
        "vocab_size": first + len(tokens),
        "pad_token_id": pad,
        "torch_dtype": str(embedding.dtype).removeprefix("torch."),
        "use_cache": True,
        "use_mm_proj": True,
        "mm_hidden_size": columns,
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14",  # names the image processor alone
    }


def first_added(model: ChatModel, tokens: tuple[str, ...]) -> int:
    """The lowest id of an added token in the release: of [PAD], or of the first of `tokens`."""
    first = model.language.num_embeddings
    assert first is not None and tokens
    return min([first, *rows_in_folder(_tokenizer(model)).values()])


def _newer(config: Any) -> str | None:
    """What of a language model the code of 2023 does not know."""
    if config.model_type != "llama":
        return f"is a {config.model_type}"
    if (config.num_key_value_heads or config.num_attention_heads) != config.num_attention_heads:
        return f"has {config.num_key_value_heads} key-value heads for {config.num_attention_heads} heads"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or float(rope.get("rope_theta", 10000.0)) != 10000.0:
        return f"has rotary settings {rope}"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "has biases"
    return None


def write_release_tokenizer(model: ChatModel, tokens: tuple[str, ...], path: Path) -> None:
    """Copy the tokenizer of the language model and add the tokens with their ids to its files."""
    folder, first = _tokenizer(model), model.language.num_embeddings
    assert first is not None
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file() and file.name.startswith(TOKENIZER_FILES):
            shutil.copyfile(file, path / file.name)
    ids = {token: first + number for number, token in enumerate(tokens)}
    write_json({**rows_in_folder(folder), **ids}, path / "added_tokens.json")
    settings = read_mapping(path / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] |= {str(number): {"content": one, **MARKER} for one, number in ids.items()}
    if PAD in ids or PAD in rows_in_folder(folder):
        settings["pad_token"] = PAD
    write_json({"tokenizer_class": "LlamaTokenizer", **settings}, path / "tokenizer_config.json")
    if fast := read_mapping(path / "tokenizer.json"):
        kept = [entry for entry in fast.get("added_tokens") or () if entry.get("content") not in ids]
        fast["added_tokens"] = [*kept, *({"id": number, "content": one, **MARKER} for one, number in ids.items())]
        replace_text(path / "tokenizer.json", json.dumps(fast, ensure_ascii=False))


def _tokenizer(model: ChatModel) -> Path:
    return getattr(model.language, "tokenizer_folder", None) or Path()
