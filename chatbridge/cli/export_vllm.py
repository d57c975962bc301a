"""`chatbridge export RUN --vllm DIR`: a model for serving through vLLM, which runs its language model.

DIR/language_model/   the language model as an ordinary Hugging Face folder: adapters merged, added tokens among its
                      rows and in its tokenizer. `vllm serve` reads it
DIR/front/            what `chatbridge serve --vllm-url` needs: encoders and bridges with our names, the embedding of
                      the tokens, the tokenizer, and chatbridge.json with the settings

The two folders belong to different machines; neither reads the other one.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatbridge.cli.export_parts import Part, is_setting, language_part, num_bytes
from chatbridge.cli.export_source import Source, whole_tensors
from chatbridge.cli.weights.shard_writer import write_json, write_safetensors
from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import load
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.experiment.open import config_of, plugins_of
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.language._sharded_files import TensorFiles
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.weight_files import FILE_SETTINGS
from chatbridge.serve.vllm.front_folder import FILE, FORMAT, FRONT, LANGUAGE, LANGUAGE_MODEL, TOKEN_EMBEDDING

KEPT = ("generation", "question", "chat")  # of the run's section `evaluation`: how a chat asks and answers


def vllm_part(source: Source, checkpoint: Path) -> Part:
    """The folder as one part.

    raises   ValueError with every reason why vLLM cannot serve this model, or when its weights are not those of the
             training
    """
    if reasons := obstacles(source):
        raise ValueError("this model cannot be served through vLLM:\n" + "\n".join(reasons))
    language = language_part(source, has_added_rows=True)
    names = [f"{kind}.{name}" for kind in ("encoders", "bridges") for name in getattr(source.model, kind)]
    tensors = {name: whole_tensors(source, name) for name in names}

    def write(path: Path, shard_bytes: int) -> None:
        path.mkdir(exist_ok=True)
        language.write(path / LANGUAGE_MODEL, shard_bytes)
        front = path / FRONT
        (front / LANGUAGE).mkdir(parents=True)
        for name, own in tensors.items():
            write_safetensors(own, front / _place(source, name))
        _write_language_settings(path / LANGUAGE_MODEL, front / LANGUAGE)
        write_safetensors({"weight": _embedding(source, path / LANGUAGE_MODEL)}, front / LANGUAGE / TOKEN_EMBEDDING)
        write_json(_settings(source, checkpoint), front / FILE)
        (path / "README.md").write_text(_readme(), encoding="utf-8")

    def said(path: Path) -> str:
        return (
            f"{path}; run `vllm serve {path / LANGUAGE_MODEL} --enable-prompt-embeds` where the GPUs are, then "
            f"`chatbridge serve --checkpoint {path / FRONT} --vllm-url http://HOST:8000`"
        )

    size = language.num_bytes + sum(map(num_bytes, tensors.values()))
    return Part("vllm", "vllm", size, write, said, is_folder=True)


def obstacles(source: Source) -> list[str]:
    """Every reason why a language model elsewhere could not answer for this model."""
    model, found = source.model, []
    if not isinstance(model.fusion, Inline):
        name = model.config.fusion.name
        found.append(f"model.fusion {name} puts layers of its own into the language model, which vLLM does not have")
    if not isinstance(model.language, CausalLM):
        found.append(f"model.language {model.config.language.name} is not a folder of transformers")
    name = source.manifest.get("template", {}).get("name")
    if model.config.generator is not None or (name in TEMPLATES.names() and TEMPLATES.get(name).can_draw):
        found.append(f"the template {name} draws images within an answer, which continues in the middle; vLLM does not")
    return found


def _place(source: Source, name: str) -> str:
    """Where the tensors of a component go: a component whose weights are a folder keeps that folder's settings."""
    return f"{name}/model.safetensors" if _folder_of(source, name) is not None else f"{name}.safetensors"


def _folder_of(source: Source, name: str) -> Path | None:
    """The Hugging Face folder of an encoder, whose files decide about sizes and preprocessing; None for other parts."""
    weights = getattr(source.model.get_submodule(name).config, "weights", None)
    return weights if weights is not None and Path(weights).is_dir() else None


def _write_language_settings(whole: Path, front: Path) -> None:
    """Copy everything but weights: settings and tokenizer."""
    for file in sorted(whole.iterdir()):
        if file.is_file() and is_setting(file.name):
            shutil.copyfile(file, front / file.name)


def _embedding(source: Source, folder: Path) -> Any:
    """The embedding float[V, D] that was written to the folder, in its dtype."""
    language: Any = source.model.language
    names = {id(module): name for name, module in language.lm.named_modules()}
    files = TensorFiles(folder)
    return files.rows(f"{names[id(language.vocabulary_modules[0])]}.weight").contiguous()


def _settings(source: Source, checkpoint: Path) -> dict[str, Any]:
    """The content of chatbridge.json; its paths are within the folder."""
    template = dict(source.manifest.get("template", {}))
    name = template.pop("name", None)
    return {
        "format": FORMAT,
        "step": source.manifest.get("step"),
        "model": _model_settings(source, name, template),
        "evaluation": {**_chat_settings(checkpoint), "template": name},
        "plugins": plugins_of(checkpoint),
        "tokenizer": _fingerprint(source),
        "preprocessing": source.manifest.get("preprocessing", {}),
    }


def _model_settings(source: Source, template: str | None, strings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the model in front of vLLM: everything is in its weights, adapters and added tokens too."""
    model = copy.deepcopy(dict(source.manifest["model"]))
    for kind in ("encoders", "bridges"):
        for name, part in model.get(kind, {}).items():
            has_weights = part.get("weights") is not None
            _without_files(part)
            if has_weights:
                place = Path(_place(source, f"{kind}.{name}"))
                part["weights"] = str(place.parent if _folder_of(source, f"{kind}.{name}") else place)
    language = model["language"]
    _without_files(language)
    for key in ("architecture", "chat_template", "load_in_8bit", "load_in_4bit", "quantizer"):
        language.pop(key, None)
    language |= {"weights": LANGUAGE, "template": template, "template_settings": dict(strings)}
    for key in ("weights", "adapters", "trainable", "added_tokens", "random_init_tokens", "generator"):
        model.pop(key, None)
    return model


def _without_files(node: dict[str, Any]) -> None:
    """Set the settings that name files to null, at any depth: their tensors are among the exported ones."""
    for key, value in node.items():
        if isinstance(value, dict):
            _without_files(value)
        elif key in FILE_SETTINGS:
            node[key] = None


def _chat_settings(checkpoint: Path) -> dict[str, Any]:
    """How a chat with the run's model asks and answers, from its configuration; {} where that is gone."""
    try:
        evaluation = load(config_of(checkpoint))[0].get("evaluation")
    except ConfigError:
        return {}
    return {key: evaluation[key] for key in KEPT if key in evaluation} if isinstance(evaluation, Mapping) else {}


def _fingerprint(source: Source) -> str | None:
    return source.manifest.get("tokenizer", {}).get("fingerprint")


def _readme() -> str:
    return f"""# A ChatBridge model for vLLM

| folder | for | content |
|---|---|---|
| `{LANGUAGE_MODEL}/` | the machines with vLLM | the language model, an ordinary Hugging Face folder |
| `{FRONT}/` | the machine that clients talk to | encoders, bridges, the embedding of the tokens, settings |

    vllm serve {LANGUAGE_MODEL} --enable-prompt-embeds --port 8000
    chatbridge serve --checkpoint {FRONT} --vllm-url http://HOST:8000

Repeat `--vllm-url` for several machines. ChatBridge's documentation has a page about it: "Serving through vLLM".
"""
