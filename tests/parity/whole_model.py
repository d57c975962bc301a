"""A whole small ChatBridge: its checkpoint file, media tokens, sequences, logits and losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.common.types import Sample, Segments
from chatbridge.config.schema import parse
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.datasets.collate import collate
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders._beats_checkpoint import sizes_from_cfg
from chatbridge.models.importers.chatbridge import load_chatbridge
from chatbridge.models.routes import merge_frames
from tests.parity.bridge import qformer_settings
from tests.parity.conversations import FOREIGN, read_string
from tests.parity.golden import Check, Golden
from tests.parity.token_sequences import CUT, LEFT_PADDING, NOTHING_SUPERVISED, labels_of, supervised_sequence
from tests.parity.toy_tokenizers import CrcTokenizer
from tests.parity.vision import eva_settings
from tests.parity.weight_files import other_eps, released_file

VECTORS = {"visual": "visual_temporal_pos_embeds", "sound": "audio_temporal_pos_embeds"}


@torch.no_grad()
def tiny(check: Check) -> None:
    """Tokens of every modality with and without vectors per frame, then every forward pass of the sidecar."""
    golden = check.golden
    models = {temporal: filled_model(golden, temporal) for temporal in (True, False)}
    for temporal, suffix in ((True, ""), (False, "_no_temporal")):
        for modality in ("image", "video", "audio"):
            if f"{modality}_tokens{suffix}" in golden.outputs:
                tokens = models[temporal].media_tokens({modality: golden.inputs[modality]})[modality]
                check.close(f"{modality}_tokens{suffix}", tokens)
    _memories(check, models[True])
    if "multi_image_tokens" in golden.outputs:
        model = filled_model(golden, temporal=True, merge="separate")
        check.close("multi_image_tokens", model.media_tokens({"video": golden.inputs["video"]})["video"])
    for name, forward in golden.config["forwards"].items():
        model = models[bool(forward["multi_sample"])]
        (_stage_one if forward["stage"] == 1 else _stage_two)(check, name, forward, model)
        _language(check, name, model)


def model_settings(golden: Golden, temporal: bool, merge: str = "concat") -> dict[str, Any]:
    """The YAML of the case, with sizes from the sidecar and counts from its tensors."""
    sizes, inputs = golden.config, golden.inputs
    vectors = {name: golden.weights[key].shape[1] for name, key in VECTORS.items() if key in golden.weights}
    patch = sizes["beats"]["input_patch_size"]
    frames, mel_bins = (length - length % patch for length in inputs["audio"].shape[2:])  # as the patches cut them
    beats = {"target_frames": frames, "mel_bins": mel_bins}
    queries = {"image": "visual", "video": "visual", "audio": "sound"}
    perceiver = qformer_settings(sizes["qformer"], queries=queries, temporal=vectors if temporal else {})
    if "audio_trans.weight" in golden.weights:  # also where the widths are equal
        perceiver["adapters"] = ["sound"]
    video = {"count": inputs["video"].shape[1], "merge": merge}
    return {
        "encoders": {
            "vision": {"name": "eva_vit", **eva_settings(sizes["vit"])},
            "audio": {"name": "beats", **beats, **sizes_from_cfg(sizes["beats"])},
        },
        "bridges": {"perceiver": {"name": "qformer", **perceiver}},
        "language": {"name": "causal_lm", "architecture": {**sizes["llama"], "bos_token_id": 1, "eos_token_id": 2}},
        "routes": {
            "image": {"encoder": "vision", "bridge": "perceiver"},
            "video": {"encoder": "vision", "bridge": "perceiver", "frames": video},
            "audio": {"encoder": "audio", "bridge": "perceiver", "clips": {"count": inputs["audio"].shape[1]}},
        },
    }


def filled_model(golden: Golden, temporal: bool, merge: str = "concat") -> ChatModel:
    """Fill the model from a checkpoint file of the whole model, as a user does."""
    model = ChatModel(parse(ModelConfig, model_settings(golden, temporal, merge))).eval()
    weights = {name: value for name, value in golden.weights.items() if temporal or name not in VECTORS.values()}
    with released_file(weights) as path:
        load_chatbridge(model, path)
    sizes = golden.config
    parts: list[Any] = [model.routes["video"].encoder, model.routes["audio"].encoder, model.routes["video"].bridge]
    vision, audio, perceiver = parts
    other_eps(vision.vit, sizes["vit"].get("norm_eps"), released=1e-6)
    other_eps(vision.norm, sizes.get("ln_vision_eps"), released=1e-5)
    for name, part in audio.named_children():
        given = sizes.get("ln_audio_eps") if name == "norm" else sizes["beats"].get("norm_eps")
        other_eps(part, given, released=1e-5)
    other_eps(perceiver.qformer, sizes["qformer"].get("layer_norm_eps"), released=1e-12)
    return model


def _memories(check: Check, model: ChatModel) -> None:
    """Compare the Q-Former's input, and the normalised features of the first frame."""
    inputs = check.golden.inputs
    for modality, output, query_set in (("video", "vision_memory", "visual"), ("audio", "audio_memory", "sound")):
        if output in check.golden.outputs:
            route = model.routes[modality]
            flat, pieces = route.flat(inputs[modality])
            bridge: Any = route.bridge
            check.close(output, bridge.memory(merge_frames(route.encoder(flat, modality), pieces), query_set))
    if "ln_vision_frame0" in check.golden.outputs:
        check.close("ln_vision_frame0", model.routes["video"].encoder(inputs["video"][:, 0], "image").x)


def _tokenizer(golden: Golden) -> CrcTokenizer:
    return CrcTokenizer(vocab_size=golden.config["llama"]["vocab_size"])


def _stage_one(check: Check, name: str, forward: Mapping[str, Any], model: ChatModel) -> None:
    """Captions after media, padded on the right: the same batch on both sides."""
    golden = check.golden
    modality = forward.get("image") or forward["audio"]
    limit = {"end_sym": golden.config["end_sym"], "max_tokens": forward["max_txt_len"]}
    layout = Layout(build_template("caption", **limit), _tokenizer(golden), model.media_lengths())
    samples = [
        Sample(str(i), name, (user(Media(modality, "x")), assistant(text)), (golden.inputs[modality][i],))
        for i, text in enumerate(forward["text"])
    ]
    batch = collate(samples, layout)
    mask = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]  # [B, L]
    labels = [labels_of(layout.training_sequence(sample.conversation)) for sample in samples]
    width = batch.ids.shape[1]
    check.close(f"{name}.attention_mask", mask.long())
    check.close(f"{name}.labels", torch.tensor([row + [-100] * (width - len(row)) for row in labels]))
    check.close(f"{name}.inputs_embeds", model.prepared(batch)[0], at=mask)
    logits = model.language.logits(model.language(model.prepared(batch)[0], batch.positions))
    check.close(f"{name}.logits", logits, at=mask)
    loss = model(batch)
    check.close(f"{name}.loss", loss.total[None] / loss.count)


def _stage_two(check: Check, name: str, forward: Mapping[str, Any], model: ChatModel) -> None:
    """Conversations, row by row: the reference pads on the left."""
    golden, outputs = check.golden, check.golden.outputs
    whole = outputs[f"{name}.attention_mask"].bool()
    for index, text in enumerate(forward["text"]):
        read = read_string(text)
        if read is None:
            check.deviates(FOREIGN, f"{name}.attention_mask", f"{name}.labels", f"{name}.inputs_embeds")
            continue
        what, is_padded = f"{name}, row {index}", not bool(whole[index].all())
        layout = Layout(read.template, _tokenizer(golden), model.media_lengths(), forward["max_txt_len"])
        labels = outputs[f"{name}.labels"][index]
        row = supervised_sequence(check, what, layout, read.conversation, bool((labels != -100).any()))
        if row is None:
            continue
        media = tuple(golden.inputs[forward[key]][index] for key in ("image", "audio") if forward.get(key))
        batch = collate([Sample("0", name, read.conversation, media)], layout)
        rows = model.prepared(batch)[0][0]
        theirs = outputs[f"{name}.inputs_embeds"][index][whole[index]]  # without padding, and without the bos after it
        if is_padded:
            check.deviates(LEFT_PADDING)
        ours, seen = rows[int(is_padded) :], len(theirs)
        if row.is_cut and len(ours) < seen:
            check.deviates(CUT)
            seen = len(ours)
        check.equal(f"{what}: positions", len(ours), seen)
        check.near(f"{name}.inputs_embeds", ours, theirs[:seen])
        check.equal(f"{what}: labels", labels_of(row)[int(is_padded) :], labels[whole[index]].tolist()[:seen])
        if not is_padded:
            logits = model.language.logits(model.language(model.prepared(batch)[0], batch.positions))[0]
            check.near(f"{name}.logits", logits, outputs[f"{name}.logits"][index][:seen])
    check.deviates(LEFT_PADDING, f"{name}.attention_mask", f"{name}.labels", f"{name}.inputs_embeds")


def _language(check: Check, name: str, model: ChatModel) -> None:
    """The language model on the reference's sequences, mask and labels, padded as they are: logits and loss."""
    outputs = check.golden.outputs
    embeds, seen = outputs[f"{name}.inputs_embeds"], outputs[f"{name}.attention_mask"].bool()
    base = torch.zeros_like(seen, dtype=torch.long)
    segments = Segments(base.masked_fill(~seen, -1), base, base + embeds.shape[1])
    hidden = model.language(embeds, torch.arange(embeds.shape[1]).expand(len(embeds), -1), segments)
    logits = model.language.logits(hidden)
    check.close(f"{name}.logits", logits, at=seen)
    if torch.isnan(outputs[f"{name}.loss"]).any():
        check.deviates(NOTHING_SUPERVISED, f"{name}.loss")
        return
    check.close(f"{name}.loss", _loss(logits, outputs[f"{name}.labels"]))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over labelled positions; labels are at the token itself. float[1]"""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)[None]
