"""A whole small Multimodal-GPT, filled from files in the released layouts as users load them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.released import load_model_weights, start_from
from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from tests.parity.flamingo_clip import architecture
from tests.parity.flamingo_text import ADDED
from tests.parity.golden import Check, Golden, read_golden

BASE = "flamingo_e2e"  # has the weights that belong to the adapters of the others
ADAPTED = ("language.*.self_attn.?_proj", "fusion.layers.*")


def lora(check: Check) -> None:
    """Logits and losses of both recorded batches with adapters, from a base and a second file of adapters alone."""
    golden, base = check.golden, base_of(check.golden)
    with filled_model(base, golden) as model, torch.no_grad():
        for name in ("visual", "lang"):
            batch = batch_of(base, name)
            real = base.inputs[f"{name}.attention_mask"].bool()  # without padding, on the right
            check.close(f"{name}.logits_v8", logits(model, batch)[..., ::8], at=real)
            loss = model(batch)
            check.close(f"{name}.loss", loss.total / loss.count)


def base_of(golden: Golden) -> Golden:
    """The recording with the inputs and weights that this one belongs to."""
    assert golden.folder is not None
    return read_golden(golden.folder / f"{BASE}.json")


@contextmanager
def filled_model(base: Golden, adapters: Golden | None = None, **changes: Any) -> Iterator[ChatModel]:
    """The model of a recording: all its weights from one file as `model.weights`, adapters from one as `run.init_from`.

    changes   settings of the fusion
    """
    with TemporaryDirectory(prefix="chatbridge-parity-") as folder:
        path, settings = Path(folder) / "checkpoint.pt", model_settings(base, adapters, **changes)
        torch.save(dict(base.weights), path)
        model = ChatModel(parse(ModelConfig, {**settings, "weights": str(path)}))
        set_trainable(model, ())
        load_weights(model, torch.device("cpu"), torch.float32)
        load_model_weights(model)
        if adapters is not None:
            second = Path(folder) / "mmgpt-lora.pt"
            state = {f"module.{name}": value for name, value in adapters.weights.items()}
            torch.save({"model_state_dict": state, "tuning_config": tuning(adapters)}, second)
            start_from(model, second)
        yield model.eval()


def tuning(adapters: Golden) -> dict[str, Any]:
    """The settings that lie beside released adapters."""
    sizes = adapters.config
    return {"lora": True, "lora_r": sizes["r"], "lora_alpha": sizes["lora_alpha"]}


def model_settings(base: Golden, adapters: Golden | None = None, **changes: Any) -> dict[str, Any]:
    """The YAML of the case, with sizes from the sidecar."""
    sizes, perceiver, blocks = base.config, base.config["perceiver"], base.config["cross_attention"]
    llama = {**sizes["llama"], "vocab_size": sizes["special_ids"]["endofchunk"], "bos_token_id": 1, "eos_token_id": 2}
    entries = []
    if adapters is not None:
        found = adapters.config
        entries = [{"targets": list(ADAPTED), "rank": found["r"], "alpha": float(found["lora_alpha"])}]
    return {
        "encoders": {
            "vision": {"name": "hf_vision", "architecture": architecture(sizes["vision"]), "drop_first": 1}
        },
        "bridges": {
            "resampler": {
                "name": "resampler", "depth": perceiver["depth"], "num_latents": perceiver["num_latents"],
                "heads": perceiver["heads"], "head_width": perceiver["dim_head"],
                "feed_forward_mult": perceiver["ff_mult"],
            }
        },
        "language": {"name": "causal_lm", "architecture": llama},
        "fusion": {
            "name": "cross_attention", "every": sizes["cross_attn_every_n_layers"], "heads": blocks["heads"],
            "head_width": blocks["dim_head"], "feed_forward_mult": blocks["ff_mult"],
            "media_width": blocks["dim_visual"], "media": "next", **changes,
        },
        "added_tokens": list(ADDED),
        "routes": {"image": {"encoder": "vision", "bridge": "resampler"}},
        "adapters": entries,
    }  # fmt: skip


def batch_of(golden: Golden, name: str, rows: Any = slice(None)) -> Batch:
    """A recorded batch as ours: padded on the right, targets at the position before, an image per <image>.

    rows   of the recording, in this order; all by default
    """
    ids = golden.inputs[f"{name}.input_ids"][rows]
    every = golden.inputs.get(f"{name}.labels", torch.full_like(golden.inputs[f"{name}.input_ids"], -100))
    mask = golden.inputs.get(f"{name}.attention_mask", torch.ones_like(golden.inputs[f"{name}.input_ids"]))
    shifts = [-int(one) for one in mask[rows].argmax(1)]  # padding on the left
    ids, labels, mask = (rolled(one, shifts) for one in (ids, every[rows], mask[rows]))
    supervised = (labels[:, 1:] != -100).flatten().nonzero()[:, 0]
    places = supervised // (ids.shape[1] - 1) * ids.shape[1] + supervised % (ids.shape[1] - 1)
    media: Mapping[str, Tensor] = {}
    is_slot = (ids == golden.config["special_ids"]["image"]) & mask.bool()
    slots = is_slot.flatten().nonzero()
    if f"{name}.vision_x" in golden.inputs:
        found = golden.inputs[f"{name}.vision_x"][rows][:, :, 0]  # [B, images, 3, H, W], a frame per image
        shown = [own[:count] for own, count in zip(found, is_slot.sum(1).tolist(), strict=True)]
        media = {"image": torch.cat(shown)}
    return Batch(
        ids=ids,
        positions=torch.arange(ids.shape[1]).expand(len(ids), -1),
        lengths=mask.sum(1),
        predict_at=places,
        target=labels[:, 1:].flatten()[supervised],
        media=dict(media),
        media_slots={"image": slots} if media else {},
    )


def rolled(rows: Tensor, shifts: Sequence[int]) -> Tensor:
    """Each row of [B, L, ...] moved along L by its own number of positions."""
    return torch.stack([row.roll(by, 0) for row, by in zip(rows, shifts, strict=True)])


def logits(model: ChatModel, batch: Batch) -> Tensor:
    """float[B, L, V] at all positions."""
    embeds, context = model.prepared(batch)
    model.fusion.show(context)
    return model.language.logits(model.language(embeds, batch.positions))
