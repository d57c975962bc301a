"""A trained model in one line.

model = load_model("runs/x")
print(model.reply([Path("cat.jpg"), "What is this?"]))
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import ConfigError, reported_at
from chatbridge.config.merge import load, with_options
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import parse
from chatbridge.experiment.chat_config import ChatConfig, config_of
from chatbridge.experiment.chat_model import build, build_generator
from chatbridge.experiment.roots import REGISTRIES
from chatbridge.models.checkpoint_manifest import MANIFEST, UnusableCheckpoint, read_manifest
from chatbridge.models.checkpoints import find_checkpoint, refused
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.moved_files import hint_moved_files


def load_model(path: str | Path, limits: ChatLimits | None = None, *, options: Sequence[str] = ()) -> ChatEngine:
    """The model of a run folder (its newest checkpoint) or of one checkpoint folder, ready to answer.

    The checkpoint's manifest says everything: how the parts are put together, where frozen weights are, which tokenizer
    and template. A checkpoint folder may stand anywhere by itself. The device is the machine's best.

    limits   what a file may cost; None: the defaults of ChatLimits
    options  where files are now that moved since, for example ["model.language.weights=/data/vicuna-13b"]; their
             content must be the same
    raises   ConfigError when it is no checkpoint of ours, frozen weights are not where the manifest says, or they (or
             the tokenizer) are not the ones the tensors were trained beside: then with a table
    """
    with reported_at("load_model"):
        checkpoint = find_checkpoint(path)
        manifest = _complete_manifest(checkpoint)
    add_plugins(REGISTRIES, _plugins(checkpoint))
    mapping = {
        "model": _without_replaced_weights(manifest),
        "evaluation": {"template": manifest["template"].get("name")},
        "run": {"init_from": str(checkpoint), "model_from": "checkpoint"},  # the template with its strings too
    }
    mapping, origins = with_options(mapping, options)
    with hint_moved_files(f'load_model("{path}", options=["{{}}"])'):
        config = parse(ChatConfig, mapping, origins)
        model, layout, about = build(config)
        generator, said = build_generator(config, model, layout)
    return ChatEngine(model, layout, (*about, *said), limits, generator)


def _complete_manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(checkpoint)
        if missing := [key for key in ("model", "template") if not manifest.get(key)]:
            raise UnusableCheckpoint(f"{checkpoint / MANIFEST}: lacks {' and '.join(missing)}")
    except UnusableCheckpoint as error:
        raise refused(checkpoint, error) from None
    return manifest


def _without_replaced_weights(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings; a part that trained whole is in the checkpoint, so the file it started from may be gone."""
    model = copy.deepcopy(manifest["model"])
    for kind in ("encoders", "bridges"):
        for name, settings in model.get(kind, {}).items():
            described = manifest.get("components", {}).get(f"{kind}.{name}", {"frozen": {"tensors": 1}})
            if not described["frozen"]["tensors"] and "architecture" not in settings:
                settings["weights"] = None
    model.get("language", {}).pop("chat_template", None)  # its text is in the manifest
    return model


def _plugins(checkpoint: Path) -> list[str]:
    """Packages with parts of the run's own; none when the checkpoint stands alone."""
    try:
        return plugin_names(load(config_of(checkpoint))[0])
    except ConfigError:
        return []
