"""Train the tiny EVA-ViT and the tiny BEATs to classify attributes, and save them as encoder weights.

They take the role of eva_vit_g.pth and BEATs_iter3_plus_AS2M.pt: `eva_vit` and `beats` encoders of a small config that
both training stages keep frozen. Held-out scenes are not in their training data.

The classifiers read single feature tokens, so that every token carries every attribute of its image or audio.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chatbridge.common.safe_files import replace_text
from chatbridge.config.schema import parse
from chatbridge.models.encoders.beats import BEATs
from chatbridge.models.encoders.eva_vit import EvaViT
from dataset_prep.tiny_world import world
from dataset_prep.tiny_world.encoder_data import NO_LABEL, Batches, Labels, audio_batches, image_batches

NUM_WAVEFORMS = 8000  # with fewer the encoder overfits
NUM_EXAMINED = 300  # items of the accuracy


class Heads(nn.Module):
    """A linear classifier per attribute, on the mean feature and on one random token.

    dropout  share of the channels that are zeroed in training, so that no attribute depends on few channels and
             features of new combinations resemble known ones
    """

    def __init__(self, width: int, attributes: dict[str, tuple[str, ...]], dropout: float = 0.0):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in attributes.items()})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Logits of the mean feature and of one random token per item, by attribute.

        x        float[M, N, W]
        returns  attribute -> float[M, values], twice
        """
        x = self.dropout(x)
        one = x[torch.arange(len(x)), torch.randint(x.shape[1], (len(x),))]
        mean = x.mean(1)
        return ({k: head(mean) for k, head in self.heads.items()}, {k: head(one) for k, head in self.heads.items()})


def train(
    encoder: nn.Module,
    modality: str,
    batches: Batches,
    examined: Batches,
    *,
    steps: int,
    batch: int,
    lr: float,
    dropout: float = 0.0,
) -> dict[str, float]:
    """Train the encoder in place; returns the accuracy per attribute.

    batches    training data
    examined   data of the accuracy, of which NUM_EXAMINED items are used
    """
    heads = Heads(encoder.width, world.ATTRIBUTES[modality], dropout)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
    encoder.train()
    for _ in range(steps):
        media, labels = batches(batch)
        mean, one = heads(encoder(media, modality).x)
        targets = {name: torch.tensor(values) for name, values in labels.items()}
        loss = sum(nn.functional.cross_entropy(logits[k], t) for logits in (mean, one) for k, t in targets.items())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    encoder.eval()
    heads.eval()
    return _accuracy(encoder, heads, *examined(NUM_EXAMINED))


@torch.no_grad()
def _accuracy(encoder: nn.Module, heads: Heads, media: Tensor, labels: Labels) -> dict[str, float]:
    mean, _ = heads(encoder(media).x)
    found = {}
    for name, values in labels.items():
        target = torch.tensor(values)
        found[name] = round(float((mean[name].argmax(-1) == target)[target != NO_LABEL].float().mean()), 3)
    return found


def enlarge_init(encoder: nn.Module) -> None:
    """Initialise weights with std 1 / sqrt(inputs), position embeddings with 0.5; 0.02 suits widths of 1000."""
    for name, parameter in encoder.named_parameters():
        if "pos_embed" in name or "cls_token" in name:
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 2 and parameter.shape[0] > 1:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def warm_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


# ---------------------------------------------------------------- command


def encoder_sizes(path: Path) -> tuple[EvaViT.Config, BEATs.Config]:
    """The sizes of the encoders in a model YAML, whose weights do not exist yet."""
    from omegaconf import OmegaConf

    model = OmegaConf.to_container(OmegaConf.load(path)["model"])
    nodes = [model["encoders"][name] for name in ("vision", "audio")]
    vision, audio = ({key: value for key, value in node.items() if key not in ("name", "weights")} for node in nodes)
    return parse(EvaViT.Config, vision), parse(BEATs.Config, audio)


def train_vision(config: EvaViT.Config, steps: int, seed: int) -> tuple[EvaViT, dict[str, float]]:
    torch.manual_seed(seed)
    encoder = EvaViT(config)
    enlarge_init(encoder)
    processor = config.processor("image", train=False, count=1)
    shown, held_out = (image_batches(processor, seed, held_out=flag) for flag in (False, True))
    return encoder, train(encoder, "image", shown, held_out, steps=steps, batch=48, lr=2e-3)


def train_audio(config: BEATs.Config, steps: int, seed: int) -> tuple[BEATs, dict[str, float]]:
    torch.manual_seed(seed)
    encoder = BEATs(config)
    enlarge_init(encoder)
    processor = config.processor("audio", train=False, count=1)
    shown = audio_batches(processor, NUM_WAVEFORMS, seed, held_out=False)
    held_out = audio_batches(processor, NUM_EXAMINED, seed, held_out=True)
    return encoder, train(encoder, "audio", shown, held_out, steps=steps, batch=32, lr=2e-3, dropout=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="folder of the tiny world")
    parser.add_argument("--sizes", type=Path, default=Path("configs/models/chatbridge_tiny.yaml"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=tuple(TRAIN), help="train one of the two encoders (default: both)")
    parser.add_argument("--steps", type=int, help="training steps of each encoder (default: " + _default_steps() + ")")
    arguments = parser.parse_args()
    folder = arguments.root / "encoders"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = dict(zip(TRAIN, encoder_sizes(arguments.sizes), strict=True))
    for name in (arguments.only,) if arguments.only else tuple(TRAIN):
        started, (train_one, steps) = time.monotonic(), TRAIN[name]
        encoder, accuracy = train_one(sizes[name], arguments.steps or steps, arguments.seed)
        save_file(encoder.state_dict(), folder / f"{name}.safetensors")
        replace_text(folder / f"{name}_examination.json", json.dumps(accuracy, indent=1))
        print(f"{name}: accuracy {json.dumps(accuracy)} in {time.monotonic() - started:.0f} s", flush=True)


TRAIN: dict[str, tuple[Callable[..., tuple[nn.Module, dict[str, float]]], int]] = {  # and the default number of steps
    "vision": (train_vision, 800),
    "audio": (train_audio, 900),
}


def _default_steps() -> str:
    return ", ".join(f"{name} {steps}" for name, (_, steps) in TRAIN.items())


if __name__ == "__main__":
    main()
