"""Building one model from its files in three ways: what a training does before its first step.

`python -m benchmarks.startup_sides SIDE FOLDER` builds one side and prints its number of parameters and the sum of its
word embeddings. `write` makes the files: the same random weights for every side.

    ours           `chatbridge.cli.train` is imported; the language model is built without memory and takes its tensors
                   from mapped files
    reference      as the reference's train.py: torch, transformers and timm are imported; every part is built in memory
                   with random weights (LAVIS's: normal, standard deviation 0.02), which a checkpoint then overwrites
    transformers   Blip2VisionModel, Blip2QFormerModel and LlamaForCausalLM, each by `from_pretrained`

The Q-Former is trained from the start, so ours draws it; the other sides read it too, as they read BLIP-2's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from typing import Any

from benchmarks.step_shapes import Shapes

ROOT = Path(__file__).parents[1]
MEDIUM = Shapes(
    vision_depth=12, vision_width=512, vision_heads=8, bridge_depth=6, bridge_width=512, bridge_heads=8, depth=8,
    width=768, heads=12, mlp_width=2048,
)  # fmt: skip


def write(folder: Path, shapes: Shapes) -> None:
    """The files of every side."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.step_sides import our_model, reference_model, transformers_model
    from chatbridge.common.safe_files import replace_text

    model: Any = our_model(shapes, torch.float32)
    copytree(ROOT / "tests" / "fixtures" / "tiny_llama_tokenizer", folder / "language")
    model.language.lm.save_pretrained(folder / "language")
    save_file(model.encoders["vision"].state_dict(), folder / "vision.safetensors")
    torch.save(reference_model(model, shapes).state_dict(), folder / "reference.pth")
    theirs: Any = transformers_model(model, shapes)
    theirs.vision.save_pretrained(folder / "blip2_vision")
    theirs.qformer.save_pretrained(folder / "blip2_qformer")
    replace_text(folder / "shapes.json", json.dumps(asdict(shapes)))


def ours(folder: Path) -> tuple[int, float]:
    import torch

    import chatbridge.cli.train  # noqa: F401 what the command imports
    from chatbridge.config.schema import parse
    from chatbridge.experiment.build import build_model
    from chatbridge.models.config import ModelConfig

    shapes = read_shapes(folder)
    vision = {"name": "eva_vit", "width": shapes.vision_width, "depth": shapes.vision_depth, "mlp_ratio": 4.0,
              "heads": shapes.vision_heads, "image_size": shapes.image_size, "patch_size": shapes.patch,
              "weights": str(folder / "vision.safetensors")}  # fmt: skip
    bridge = {"name": "qformer", "num_queries": shapes.num_queries, "num_layers": shapes.bridge_depth,
              "width": shapes.bridge_width, "heads": shapes.bridge_heads}  # fmt: skip
    settings = {
        "encoders": {"vision": vision},
        "bridges": {"perceiver": bridge},
        "language": {"name": "causal_lm", "weights": str(folder / "language")},
        "routes": {"image": {"encoder": "vision", "bridge": "perceiver"}},
        "trainable": ["bridges.*"],
    }
    built = build_model(parse(ModelConfig, settings))
    built.load_weights(torch.device("cpu"), "fp32")
    return _found([built.model], built.model.language.lm)


def reference(folder: Path) -> tuple[int, float]:
    import timm  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from torch import nn

    from benchmarks.step_reference import ReferenceModel

    model = ReferenceModel(read_shapes(folder))
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
    model.load_state_dict(torch.load(folder / "reference.pth", map_location="cpu"))
    return _found([model], model.llama)


def transformers(folder: Path) -> tuple[int, float]:
    import torch
    from torch import nn
    from transformers import Blip2QFormerModel, Blip2VisionModel, LlamaForCausalLM

    vision: Any = Blip2VisionModel.from_pretrained(folder / "blip2_vision")
    qformer: Any = Blip2QFormerModel.from_pretrained(folder / "blip2_qformer")
    llama: Any = LlamaForCausalLM.from_pretrained(folder / "language", dtype="float32")
    shapes = read_shapes(folder)
    queries = nn.ParameterList([torch.zeros(1, shapes.num_queries, shapes.bridge_width)])
    return _found([vision, qformer, queries, nn.Linear(shapes.bridge_width, shapes.width), llama], llama)


SIDES: dict[str, Callable[[Path], tuple[int, float]]] = {
    "ours": ours, "reference": reference, "transformers": transformers,
}  # fmt: skip


def read_shapes(folder: Path) -> Shapes:
    return Shapes(**json.loads((folder / "shapes.json").read_text()))


def _found(models: list[Any], language: Any) -> tuple[int, float]:
    count = sum(one.numel() for model in models for one in model.parameters())
    return count, float(language.model.embed_tokens.weight.detach().double().sum())


if __name__ == "__main__":
    print(*SIDES[sys.argv[1]](Path(sys.argv[2])))
