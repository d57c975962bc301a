"""`chatbridge export RUN --hf DIR`: a whole model as a folder that transformers loads, also without ChatBridge.

config.json, generation_config.json, processor_config.json   settings; auto_map names the classes
model.safetensors, or shards with an index                   all tensors, adapters merged, added tokens among the rows
tokenizer files                                               of the language model
*.py                                                          the code: modules of ChatBridge (export_hf_code)
README.md, requirements.txt, LICENSE                          how it is used, what it needs, the licence of the code
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.cli.export_added_rows import AddedRows, added_rows
from chatbridge.cli.export_hf_card import model_card, requirements
from chatbridge.cli.export_hf_code import code_files, licence_text
from chatbridge.cli.export_hf_settings import FolderSettings, check_exportable, folder_settings
from chatbridge.cli.export_parts import LICENCES, LM, TOKENIZER_FILES, Part, copy_settings
from chatbridge.cli.export_source import Source, language_tensors, whole_tensors
from chatbridge.cli.weights.shard_writer import split_into_shards, write_index, write_json, write_safetensors
from chatbridge.common.errors import ConfigError
from chatbridge.common.file_kind import read_json_object
from chatbridge.common.quiet_transformers import quiet_transformers
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.experiment.build import layout_of, plain_template
from chatbridge.experiment.open import as_trained, config_of, open_chat
from chatbridge.experiment.roots import Chat
from chatbridge.models.config import has_background
from chatbridge.models.language.answer_options import AnswerOptions
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.tokenizer_loading import read_tokenizer

AUTO_MAP = {
    "AutoConfig": "configuration_chatbridge.ChatBridgeConfig",
    "AutoModelForMultimodalLM": "modeling_chatbridge.ChatBridgeForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_chatbridge.ChatBridgeForConditionalGeneration",
    "AutoProcessor": "processing_chatbridge.ChatBridgeProcessor",
}
PROBES = ("What is in the image?", " two  blanks", "line\nbreak ###Human: </s>", "äöü 図 🙂", "<image>")


@dataclass(frozen=True)
class _Tensors:
    """All tensors of the folder by name: bytes of each, and what returns one."""

    num_bytes: Mapping[str, int]
    tensor: Callable[[str], Tensor]
    language_dtype: str


def hf_part(source: Source, checkpoint: Path, options: Sequence[str] = ()) -> Part:
    """The folder as one part.

    options   as given to `open_source`
    raises    ValueError when transformers cannot run this model, or its weights are not those of the training
    """
    check_exportable(source)
    chat = _chat_of(checkpoint, options)
    strings = dict(source.manifest["template"])
    tokenizer = read_tokenizer(source.model.language, source.model.config.added_tokens)
    layout = layout_of(source.model, tokenizer, strings.pop("name"), strings)
    if layout.template.drawing_ids is not None:
        raise ValueError(
            "this model draws images within its answers, and `generate` of transformers cannot continue an answer "
            "after an image; use `chatbridge serve`, or --layout textbind for TextBind's own code"
        )
    settings = folder_settings(source, layout, plain_template(layout), _background(chat))
    files = code_files(settings.modules)
    added, tensors = _tensors(source)

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        _write_tensors(tensors, path, shard_bytes)
        text_config = _write_language_settings(source, added, path)
        write_json(_config(settings, text_config, source, tensors.language_dtype), path / "config.json")
        write_json(_generation(chat, source, tokenizer), path / "generation_config.json")
        write_json(_processor(settings), path / "processor_config.json")
        for name, content in files.items():
            (path / name).write_text(content, encoding="utf-8")
        (path / "LICENSE").write_text(licence_text(), encoding="utf-8")
        (path / "requirements.txt").write_text(requirements(files.values()), encoding="utf-8")
        (path / "README.md").write_text(model_card(source, layout, text_config), encoding="utf-8")
        _check_tokenizer(path, tokenizer)

    def said(path: Path) -> str:
        merged = f" with {len(source.adapted)} adapters merged" if source.adapted else ""
        return (
            f"{path}, {len(tensors.num_bytes)} tensors{merged}; transformers reads it: AutoModelForMultimodalLM."
            f"from_pretrained({str(path)!r}, trust_remote_code=True); README.md shows how to ask it"
        )

    return Part("hf", "hf", sum(tensors.num_bytes.values()), write, said, is_folder=True)


def _chat_of(checkpoint: Path, options: Sequence[str]) -> Chat | None:
    """The configuration of the run's chat; None for a checkpoint that was moved out of its run."""
    try:
        return open_chat(config_of(checkpoint), as_trained(options), checkpoint).config
    except ConfigError:
        return None


def _background(chat: Chat | None) -> dict[str, str]:
    """Encoder -> the background of transparent pixels that the run's data.image chose."""
    if chat is None:
        return {}
    return {name: one.config.background for name, one in chat.model.encoders.items() if has_background(one)}


def _tensors(source: Source) -> tuple[AddedRows | None, _Tensors]:
    """The tensors of all components; those of the language model stay memory-mapped until they are written."""
    state, language = language_tensors(source)
    added = added_rows(source)
    language = language if added is None else added.extended(language)
    more = {name: 0 if added is None else added.num_values(name) for name in state}
    sizes = {
        f"language.{name.removeprefix(f'{LM}.')}": (value.numel() + more[name]) * _cast_size(source, value)
        for name, value in state.items()
    }
    others: dict[str, Tensor] = {}
    for kind in ("encoders", "bridges"):
        for name in getattr(source.model, kind):
            part = f"{kind}.{name}"
            others |= {f"{part}.{key}": value for key, value in whole_tensors(source, part).items()}
    sizes |= {name: value.numel() * value.element_size() for name, value in others.items()}

    def tensor(name: str) -> Tensor:
        return others[name] if name in others else language(name.replace("language.", f"{LM}.", 1))

    first = source.cast(next(iter(state.values()))[..., :0])
    return added, _Tensors(sizes, tensor, str(first.dtype).removeprefix("torch."))


def _cast_size(source: Source, value: Tensor) -> int:
    return source.cast(value[..., :0] if value.ndim else value).element_size()


def _write_tensors(tensors: _Tensors, path: Path, shard_bytes: int) -> None:
    """One file at a time, so that no more than it is in memory beside encoders and bridges."""
    split = split_into_shards(tensors.num_bytes, shard_bytes)
    for file, names in split.filename_to_tensors.items():
        write_safetensors({name: tensors.tensor(name).clone().contiguous() for name in names}, path / file)
    write_index(path, split)


def _write_language_settings(source: Source, added: AddedRows | None, path: Path) -> dict[str, Any]:
    """Write the tokenizer and the language model's licence; returns its config.json.

    raises   ValueError for a language model whose code is in its folder
    """
    language = source.model.language
    assert isinstance(language, CausalLM)
    own = path / "language_model"
    own.mkdir()
    copy_settings(language, language.config.weights, own, source.dtype)
    if added is not None:
        added.write_settings(own)
    config = read_json_object(own / "config.json")
    if "auto_map" in config:
        raise ValueError(
            "--hf needs a language model that transformers has itself; the code of this one is its folder's"
        )
    for file in sorted(own.iterdir()):
        if file.name.startswith(TOKENIZER_FILES):
            shutil.move(file, path / file.name)
        elif file.name.lower().startswith(LICENCES):
            shutil.move(file, path / f"language_model_{file.name}")
    shutil.rmtree(own)
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}


def _config(settings: FolderSettings, text_config: Mapping[str, Any], source: Source, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["ChatBridgeForConditionalGeneration"],
        "model_type": "chatbridge",
        "auto_map": AUTO_MAP,
        "dtype": dtype,
        "media": settings.media,
        "stops": settings.stops,
        "num_rows": source.model.language.num_embeddings,
        "added_tokens": list(source.model.config.added_tokens),
        "is_paddable": source.model.language.new_cache().store.paddable,
        "text_config": dict(text_config),
    }


def _generation(chat: Chat | None, source: Source, tokenizer: Tokenizer) -> dict[str, Any]:
    """The defaults of `generate`: those of the run's chat."""
    options = AnswerOptions() if chat is None else chat.evaluation.generation
    sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    ends = source.model.language.end_ids
    return {
        "max_new_tokens": options.max_new_tokens,
        "min_new_tokens": options.min_new_tokens or None,
        "num_beams": options.num_beams,
        "do_sample": options.sample,
        "length_penalty": options.length_penalty,
        "repetition_penalty": options.repetition_penalty,
        **(sampling if options.sample else {}),
        "eos_token_id": list(ends) or None,
        "pad_token_id": ends[0] if ends else tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
    }


def _processor(settings: FolderSettings) -> dict[str, Any]:
    return {
        "processor_class": "ChatBridgeProcessor",
        "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
        "settings": settings.processor,
    }


def _check_tokenizer(path: Path, ours: Tokenizer) -> None:
    """raises ValueError when the folder's tokenizer, read beside another config.json, gives other ids"""
    from transformers import AutoTokenizer

    file = path / "tokenizer_config.json"
    config = read_json_object(file) if file.is_file() else {}
    config.pop("auto_map", None)
    config.setdefault("tokenizer_class", type(ours.inner).__name__)
    write_json(config, file)
    with quiet_transformers(is_known=True):  # about the model type, which it does not know
        inner = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    read = Tokenizer(inner, ours.num_rows, ours.added)
    if differing := [text for text in PROBES if read.encode(text) != ours.encode(text)]:
        raise ValueError(
            f"the tokenizer reads {differing[0]!r} as {read.encode(differing[0])} in the exported folder, and as "
            f"{ours.encode(differing[0])} here: save it anew with transformers (save_pretrained) and export again"
        )


__all__ = ["AUTO_MAP", "hf_part"]
