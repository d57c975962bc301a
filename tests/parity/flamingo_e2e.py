"""A whole small Multimodal-GPT: features, logits and losses of every kind of batch, and generated answers."""

from __future__ import annotations

import torch

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language import GenerateOptions
from tests.parity.flamingo_model import batch_of, filled_model, logits, rolled
from tests.parity.flamingo_text import conversation_of, layout_of
from tests.parity.golden import Check
from tests.parity.token_sequences import labels_of

EXCESS = "images without an <image> of their own are left out; the reference passes them, and no text reads them"
REACHES = {"": "next", "_attend_previous": "previous"}  # ending of an output -> media


def e2e(check: Check) -> None:
    """Every forward pass and answer of the sidecar, with weights from a file in the released layout.

    Batches with images run with both ways to read them; rows are compared without their padding.
    """
    outputs = check.golden.outputs
    for ending, reach in REACHES.items():
        with filled_model(check.golden, media=reach) as model, torch.no_grad():
            for name in ("visual", "multi"):
                if f"{name}{ending}.logits_v8" in outputs:
                    _batch(check, model, name, f"{name}{ending}")
            if not ending:
                _features(check, model)
                _batch(check, model, "lang", "lang")
                _answers(check, model)
    _texts(check)


def _features(check: Check, model: ChatModel) -> None:
    """Tokens of CLIP and of the resampler, per image."""
    route, images = model.routes["image"], batch_of(check.golden, "visual").media["image"]
    features = route.encoder(images, "image")
    check.close("visual.clip_tokens", features.x, features=True)
    want = check.golden.outputs["visual.perceiver"]
    check.close("visual.perceiver", route.bridge(features, "image").view_as(want), features=True)


def _batch(check: Check, model: ChatModel, name: str, output: str) -> None:
    golden, batch = check.golden, batch_of(check.golden, name)
    mask = golden.inputs[f"{name}.attention_mask"]
    got = rolled(logits(model, batch)[..., ::8], mask.argmax(1).tolist())  # [B, L, V / 8], padded as in the recording
    check.near(f"{output}.logits_v8", got[mask.bool()], golden.outputs[f"{output}.logits_v8"][mask.bool()])
    if f"{output}.loss" in golden.outputs:
        loss = model(batch)
        check.close(f"{output}.loss", loss.total / loss.count)
    pictures = golden.inputs.get(f"{name}.vision_x")
    if pictures is not None and pictures.shape[:2].numel() > len(batch.media["image"]):
        check.deviates(EXCESS)


def _answers(check: Check, model: ChatModel) -> None:
    """The greedy answer and that of beam search about the first image."""
    golden = check.golden
    golden.inputs.setdefault("generate.vision_x", golden.inputs["visual.vision_x"][:1])
    batch = batch_of(golden, "generate")
    for name, beams in (("greedy_ids", 1), ("beam3_ids", 3)):
        want = golden.outputs[f"generate.{name}"]
        options = GenerateOptions(max_new_tokens=want.shape[1] - batch.ids.shape[1], num_beams=beams)
        check.close(f"generate.{name}", torch.cat([batch.ids, torch.tensor(model.generate(batch, options))], 1))


def _texts(check: Check) -> None:
    """The ids and labels of the batches and the ids of the prompt, from their texts."""
    inputs, texts = check.golden.inputs, check.golden.about["texts"]
    with layout_of(check) as layout:
        for name in ("visual", "lang"):
            for row, text in enumerate(texts[name]):
                mine = layout.training_sequence(conversation_of([_round(text)], has_image=name == "visual"))
                real = inputs[f"{name}.attention_mask"][row].bool()
                for part, found in (("input_ids", mine.ids), ("labels", labels_of(mine))):
                    check.equal(f"{name} {row}: {part}", found, inputs[f"{name}.{part}"][row][real].tolist())
        question = conversation_of([_round(texts["generate"])], has_image=True)[:1]
        check.equal("generate: ids", layout.prompt(question).ids, inputs["generate.input_ids"][0].tolist())


def _round(text: str) -> tuple[str, str]:
    """The instruction of a recorded text, its input included, and the answer."""
    asked, _, answer = text.partition("### Instruction:\n")[2].partition("\n\n### Response:\n")
    return asked, answer
