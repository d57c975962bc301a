"""A whole small ChatBind: splice, logits, losses, greedy answers and the gradients of stage 1."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.released import start_from
from chatbridge.models.language import GenerateOptions
from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from tests.parity.golden import Check, Golden

TOWER = "vision_tower."
STAGE_1 = ("bridges.projector.*", "added_tokens.embedding.<im_start>", "added_tokens.embedding.<im_end>")
LEAK = (
    "a text-only row gives no gradient to the embeddings of its words: stage 1 trains the rows of <im_start> and "
    "<im_end> alone"
)


def llm(check: Check) -> None:
    """Every forward pass of the sidecar with a model that is filled from files in the released layouts."""
    golden = check.golden
    repeats = {int(found[1]) for name in golden.outputs if (found := re.match(r"rep(\d+)\.", name))}
    for repeat in sorted(repeats | {1}):
        with filled_model(golden, repeat) as model:
            if repeat in repeats:
                _images(check, model, repeat)
            if repeat == 1:
                if "audio.input_ids" in golden.inputs:
                    _audio(check, model)
                for name in sorted({name.split(".")[0] for name in golden.outputs if name.startswith("stage1_")}):
                    _stage_one(check, model, name, has_text_row="text" in name)


@contextmanager
def filled_model(golden: Golden, repeat: int = 1) -> Iterator[ChatModel]:
    """The model of the case: its encoder from an ImageBind file, all the rest from a merged folder of ChatBind."""
    with TemporaryDirectory(prefix="chatbridge-parity-") as folder:
        encoder, merged = Path(folder) / "imagebind_huge.pth", Path(folder) / "chatbind"
        torch.save({key.removeprefix(TOWER): value for key, value in golden.weights.items() if TOWER in key}, encoder)
        merged.mkdir()
        named = {key: value for key, value in golden.weights.items() if TOWER not in key}
        save_file(named, merged / "model.safetensors")
        (merged / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
        model = ChatModel(parse(ModelConfig, model_settings(golden, encoder, repeat)))
        load_weights(model, torch.device("cpu"), torch.float32)
        start_from(model, merged)
        yield model.eval()


def model_settings(golden: Golden, encoder: Path, repeat: int) -> dict[str, Any]:
    """The YAML of the case, with sizes from the sidecar."""
    sizes, ids = golden.config["tower"], golden.config["special_ids"]
    trunks = {
        kind: {key: sizes[f"{kind}_{name}"] for key, name in
               (("width", "embed_dim"), ("depth", "num_blocks"), ("heads", "num_heads"))}
        for kind in ("vision", "audio")
    }  # fmt: skip
    trunks["vision"] |= {"image_size": sizes["image_size"], "patch_size": sizes["kernel_size"][-1]}
    trunks["audio"] |= {"mel_bins": sizes["audio_num_mel_bins"], "frames": sizes["audio_target_len"]}
    more = {"patch_size": "audio_kernel_size", "stride": "audio_stride"}
    trunks["audio"] |= {key: sizes[name] for key, name in more.items() if name in sizes}
    clips = golden.inputs["audio.audio"].shape[1] if "audio.audio" in golden.inputs else 1
    encoders = {"name": "imagebind", "out_width": sizes["out_embed_dim"], "weights": str(encoder), **trunks}
    route = {"encoder": "imagebind", "bridge": "projector"}
    return {
        "encoders": {"imagebind": encoders},
        "bridges": {"projector": {"name": "linear", "repeat": repeat}},
        "language": {
            "name": "causal_lm",
            "architecture": {
                **golden.config["llama"],
                "vocab_size": ids["im_patch"],
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        },
        "added_tokens": ["<im_patch>", "<im_start>", "<im_end>"],
        "routes": {"image": route, "audio": {**route, "clips": {"count": clips, "merge": "mean_features"}}},
    }


def batch_of(golden: Golden, name: str, modality: str, has_text_rows: bool = True) -> Batch:
    """A recorded batch as ours: media only for rows that have slots, targets at the position before.

    has_text_rows   False: only the rows with media
    """
    ids = golden.inputs[f"{name}.input_ids"]
    labels = golden.inputs.get(f"{name}.labels", torch.full_like(ids, -100))
    mask = golden.inputs.get(f"{name}.attention_mask", torch.ones_like(ids))
    media = golden.inputs[f"{name}.{modality}"]
    if not has_text_rows:
        rows = (ids == golden.config["special_ids"]["im_patch"]).any(1)
        ids, labels, mask, media = ids[rows], labels[rows], mask[rows], media[rows]
    slots = ids == golden.config["special_ids"]["im_patch"]  # [B, L]
    has_media = slots.any(1)
    supervised = (labels != -100).flatten().nonzero()[:, 0]
    return Batch(
        ids=ids,
        positions=torch.arange(ids.shape[1]).expand(len(ids), -1),
        lengths=mask.sum(1),
        predict_at=supervised - 1,
        target=labels.flatten()[supervised],
        media={modality: media[has_media]},
        media_slots={modality: slots.flatten().nonzero().view(int(has_media.sum()), -1)},
    )


@torch.no_grad()
def _images(check: Check, model: ChatModel, repeat: int) -> None:
    """Two rows with an image and one with text alone, all padded on the right."""
    golden, name = check.golden, f"rep{repeat}"
    batch = batch_of(golden, name, "image")
    mask = golden.inputs.get(f"{name}.attention_mask", torch.ones_like(batch.ids)).bool()
    embeds, _ = model.prepared(batch)
    check.close(f"{name}.inputs_embeds", embeds)
    check.close(f"{name}.logits", _logits(model, embeds), at=mask)
    _loss(check, name, model(batch))


@torch.no_grad()
def _audio(check: Check, model: ChatModel) -> None:
    """Three clips become one feature; then eight greedy tokens."""
    golden = check.golden
    batch = batch_of(golden, "audio", "audio")
    check.close("audio.logits", _logits(model, model.prepared(batch)[0]))
    want = golden.outputs.get("audio.greedy_ids")
    if want is None:
        return
    count = want.shape[1] - batch.ids.shape[1]
    answers = torch.tensor(model.generate(batch, GenerateOptions(max_new_tokens=count)))
    check.close("audio.greedy_ids", torch.cat([batch.ids, answers], 1))


def _stage_one(check: Check, model: ChatModel, name: str, has_text_row: bool) -> None:
    """The gradients of the projector and of two rows; every other row of the embedding has none."""
    golden, ids = check.golden, check.golden.config["special_ids"]
    set_trainable(model, STAGE_1)
    model.zero_grad(set_to_none=True)
    loss = model(batch_of(golden, "rep1", "image", has_text_row))
    (loss.total / loss.count).backward()
    _loss(check, name, loss)
    gradients: Mapping[str, Any] = {key: one.grad for key, one in model.named_parameters() if one.grad is not None}
    trained = {f"bridges.projector.output.{part}" for part in ("weight", "bias")} | set(STAGE_1[1:])
    check.equal(f"{name}: tensors with a gradient", sorted(gradients), sorted(trained))
    for part in ("weight", "bias"):
        check.close(f"{name}.grad.model.mm_projector.{part}", gradients[f"bridges.projector.output.{part}"])
    embedding = f"{name}.grad.model.embed_tokens.weight"
    rows = torch.zeros_like(golden.outputs[embedding])  # [R, D]
    for token in ("im_start", "im_end"):
        rows[ids[token]] = gradients[f"added_tokens.embedding.<{token}>"]
    own = [ids["im_start"], ids["im_end"]]
    check.close(embedding, rows, at=own if has_text_row else None)
    if has_text_row:
        check.deviates(LEAK)
        leaked = golden.outputs[embedding].abs().sum(1).nonzero()[:, 0].tolist()
        check.equal(f"{name}: the reference leaks into other rows", set(leaked) > set(own), True)
    set_trainable(model, ())


def _logits(model: ChatModel, embeds: Tensor) -> Tensor:
    positions = torch.arange(embeds.shape[1]).expand(len(embeds), -1)
    return model.language.logits(model.language(embeds, positions))


def _loss(check: Check, name: str, loss: Any) -> None:
    check.close(f"{name}.loss", (loss.total / loss.count).detach())
