"""A trained model in one line.

model = load_model("runs/x")
print(model.reply([Path("cat.jpg"), "What is this?"]))
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import reported_at
from chatbridge.experiment.build import build_chat
from chatbridge.experiment.open import chat_from, plugins_of
from chatbridge.models.checkpoint_manifest import MANIFEST, UnusableCheckpoint, read_manifest
from chatbridge.models.checkpoints import find_checkpoint, refused
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.moved_files import hint_moved_files


def load_model(path: str | Path, limits: ChatLimits | None = None, *, options: Sequence[str] = ()) -> ChatEngine:
    """The model of a run folder (its newest checkpoint) or of one checkpoint folder, ready to answer.

    The checkpoint's manifest describes everything: how the parts are put together, where frozen weights are, which
    tokenizer and template. A checkpoint folder works by itself in any place. The device is the machine's best.

    limits   what a file may cost; None: the defaults of ChatLimits
    options  the new place of files that moved, for example ["model.language.weights=/data/vicuna-13b"]; their content
             must be the same
    raises   ConfigError when it is not a ChatBridge checkpoint, frozen weights are not where the manifest names them,
             or they (or the tokenizer) differ from those of the training: then with a table
    """
    with reported_at("load_model"):
        checkpoint = find_checkpoint(path)
        manifest = _complete_manifest(checkpoint)
    mapping = {
        "model": _without_replaced_weights(manifest),
        "evaluation": {"template": manifest["template"].get("name")},
        "run": {"init_from": str(checkpoint), "model_from": "checkpoint"},  # the template with its strings too
    }
    with hint_moved_files(f'load_model("{path}", options=["{{}}"])'):
        built = build_chat(chat_from(mapping, plugins_of(checkpoint), options))
    return ChatEngine(built.model, built.layout, built.lines, limits, built.generator)


def _complete_manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(checkpoint)
        if missing := [key for key in ("model", "template") if not manifest.get(key)]:
            raise UnusableCheckpoint(f"{checkpoint / MANIFEST}: lacks {' and '.join(missing)}")
    except UnusableCheckpoint as error:
        raise refused(checkpoint, error) from None
    return manifest


def _without_replaced_weights(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings without the weights files of parts that were trained whole: the checkpoint has them."""
    model = copy.deepcopy(manifest["model"])
    for kind in ("encoders", "bridges"):
        for name, settings in model.get(kind, {}).items():
            described = manifest.get("components", {}).get(f"{kind}.{name}", {"frozen": {"tensors": 1}})
            if not described["frozen"]["tensors"] and "architecture" not in settings:
                settings["weights"] = None
    model.get("language", {}).pop("chat_template", None)  # its text is in the manifest
    return model
