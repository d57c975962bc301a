"""The whole model: loss, media slots, and answers to prompts of different lengths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.decode import Decoding
from chatbridge.models.language.embedded_prompts import left_padded
from chatbridge.models.placement import place_model
from chatbridge.models.source_losses import per_source
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import AUDIO, LANGUAGE, PERCEIVER, ROUTES, VISION, batch, model_mapping, tiny_model
from tests.helpers.tolerances import FP32

ALL = ("image", "video", "audio", "image")


def row_of(whole: Batch, row: int) -> Batch:
    """One conversation of a batch alone, without its padding."""
    length, cut = whole.ids.shape[1], int(whole.lengths[row])
    of_row = whole.predict_at // length == row
    modality = whole.sources[row].removeprefix("source_")
    item = [i for i, source in enumerate(whole.sources) if source == whole.sources[row]].index(row)
    return Batch(
        ids=whole.ids[row : row + 1, :cut],
        positions=whole.positions[row : row + 1, :cut],
        lengths=whole.lengths[row : row + 1],
        predict_at=whole.predict_at[of_row] - row * length,
        target=whole.target[of_row],
        media={modality: whole.media[modality][item : item + 1]},
        media_slots={modality: whole.media_slots[modality][item : item + 1] - row * length},
        sources=(whole.sources[row],),
        num_points=(int(of_row.sum()),),
    )


def test_loss_is_the_language_models_own() -> None:
    """Fails when targets are shifted by one, media are in wrong slots, or logits are of wrong positions."""
    model = tiny_model().eval()
    whole = batch(model, ("video",))
    labels = torch.full_like(whole.ids, -100).flatten()
    labels[whole.predict_at + 1] = whole.target
    embeds = model.language.embed(whole.ids).clone()
    embeds[0, 1:4] = model.media_tokens(whole.media)["video"][0]
    want = model.language.lm(inputs_embeds=embeds, labels=labels.view_as(whole.ids)).loss
    got = model(whole)
    torch.testing.assert_close(got.total / got.count, want)


def test_rows_do_not_see_each_other() -> None:
    """Fails when the loss of a sequence depends on the others of its batch or on its padding."""
    model = tiny_model().eval()
    whole = batch(model, ALL)
    parts = [model(row_of(whole, row)) for row in range(len(ALL))]
    torch.testing.assert_close(sum(part.total for part in parts), model(whole).total)


def test_loss_per_source() -> None:
    """Fails when a point is counted for a different source, or the counts are not those of the batch."""
    model = tiny_model().eval()
    whole = batch(model, ALL)
    found = model(whole).per_source
    for row in (1, 2):
        torch.testing.assert_close(found[whole.sources[row]][0], model(row_of(whole, row)).total.detach())
    assert {source: count for source, (_, count) in found.items()} == {
        "source_image": 6,
        "source_video": 3,
        "source_audio": 3,
    }


def test_counts_are_found_without_the_batch_naming_them() -> None:
    """Fails when a batch without num_points gets other sums."""
    model = tiny_model().eval()
    whole = batch(model, ALL)
    losses = torch.arange(12.0)
    assert per_source(losses, whole) == per_source(losses, replace(whole, num_points=()))
    assert per_source(losses, replace(whole, sources=())) == {}


def test_micro_batches_give_the_gradient_of_the_batch() -> None:
    """Fails when loss sums of parts do not add up to that of the whole (promise 3, inside one process)."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "dropout": 0.0}})
    set_trainable(model, ["bridges.*"])
    whole = batch(model, ALL)
    model(whole).total.backward()
    want = {name: parameter.grad.clone() for name, parameter in model.bridges.named_parameters()}
    model.zero_grad()
    for row in range(len(ALL)):
        model(row_of(whole, row)).total.backward()
    for name, parameter in model.bridges.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], atol=FP32, rtol=FP32)


def test_every_modality_reaches_the_answer() -> None:
    """Fails when the content of media, or the order of its frames, makes no difference to the loss."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "temporal": {"visual": 2}, "weight_std": 0.2}}).eval()
    torch.nn.init.normal_(model.bridges["perceiver"].temporal["visual"])
    for modality in ("image", "video", "audio"):
        whole = batch(model, (modality,))
        other = replace(whole, media={modality: whole.media[modality].flip(-1)})
        assert not torch.allclose(model(whole).total, model(other).total, atol=1e-6)
    swapped = replace(batch(model, ("video",)), media={"video": batch(model, ("video",)).media["video"].flip(1)})
    assert not torch.allclose(model(batch(model, ("video",))).total, model(swapped).total, atol=1e-6)


def test_image_and_one_frame_are_the_same() -> None:
    """Fails when a still image is not read as a video of one frame with the same queries."""
    routes = {"image": ROUTES["image"], "video": {"encoder": "vision", "bridge": "perceiver"}}
    encoders = {"vision": model_mapping()["encoders"]["vision"]}
    model = tiny_model(routes=routes, encoders=encoders).eval()
    image = torch.randn(2, 3, 28, 28)
    tokens = model.media_tokens({"image": image, "video": image[:, None]})
    torch.testing.assert_close(tokens["image"], tokens["video"])


def test_separate_frames_take_more_slots() -> None:
    """Fails when `merge: separate` does not give each frame its own tokens, in order."""
    routes = {**ROUTES, "video": {**ROUTES["video"], "frames": {"count": 2, "merge": "separate"}}}
    model = tiny_model(routes=routes).eval()
    assert model.media_lengths() == {"image": 3, "video": 6, "audio": 3}
    frames = torch.randn(2, 2, 3, 28, 28)
    tokens = model.media_tokens({"video": frames})["video"]
    torch.testing.assert_close(tokens[:, 3:], model.media_tokens({"image": frames[:, 1]})["image"])


def test_text_only_batch_and_empty_media() -> None:
    """Fails when a batch without media, or with none of one kind, cannot pass."""
    model = tiny_model().eval()
    whole = replace(batch(model, ("image",)), media={}, media_slots={})
    none = {
        "media": {"audio": torch.zeros(0, 1, 32, 32)},
        "media_slots": {"audio": torch.zeros(0, 3, dtype=torch.long)},
    }
    torch.testing.assert_close(model(whole).total, model(replace(whole, **none)).total)


def test_wrong_media_are_named() -> None:
    """Fails when a batch laid out for another model, or media without a route, gets through or fails obscurely."""
    model = tiny_model().eval()
    whole = batch(model, ("video",))
    with pytest.raises(ValueError, match="media_lengths"):
        model(replace(whole, media_slots={"video": whole.media_slots["video"][:, :2]}))
    for media, slots, message in ((2, 1, "2 media items for the slots of 1"), (1, 2, "more slots than items")):
        found = {"media": {"video": whole.media["video"].expand(media, -1, -1, -1, -1)}}
        with pytest.raises(DataError, match=message):  # which a command reports without a traceback
            model(replace(whole, **found, media_slots={"video": whole.media_slots["video"].repeat(slots, 1)}))
    with pytest.raises(ValueError, match="0 media items for the slots of 1"):
        model(replace(whole, media={}))
    with pytest.raises(ValueError, match=r"video: media of shape \[1, 3, 28, 28\].*2 frames"):
        model(replace(whole, media={"video": torch.zeros(1, 3, 28, 28)}))  # other numbers: test_models_routes.py
    with pytest.raises(ValueError, match="no route for thermal; this model has routes for image, video, audio"):
        model(replace(whole, media={"thermal": torch.zeros(1)}))


def test_left_padding_moves_rows_to_the_edge() -> None:
    """Fails when a word is lost, doubled or left in the padding."""
    rows = torch.arange(1.0, 7.0).view(2, 3, 1)
    moved, mask = left_padded(rows, torch.tensor([2, 3]))
    assert moved[..., 0].tolist() == [[0, 1, 2], [4, 5, 6]]
    assert mask.tolist() == [[False, True, True], [True, True, True]]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_answers_do_not_depend_on_the_batch(options: dict[str, int]) -> None:
    """Fails when a prompt's answer changes because the batch has longer prompts or other media."""
    model = tiny_model().eval()
    whole = batch(model, ALL, lengths=(6, 12, 9, 8))
    chosen = GenerateOptions(max_new_tokens=8, **options)
    together = model.generate(whole, chosen)
    assert together == [model.generate(row_of(whole, row), chosen)[0] for row in range(len(ALL))]
    assert len({tuple(answer) for answer in together}) > 1


def text_only(ids: list[int]) -> Batch:
    row = torch.tensor([ids])
    none = torch.zeros(0, dtype=torch.long)
    return Batch(row, torch.arange(len(ids))[None], torch.tensor([len(ids)]), predict_at=none, target=none)


def with_text_only(whole: Batch, ids: list[int]) -> Batch:
    """The batch with a text-only sequence added at its end."""
    length = whole.ids.shape[1]
    row = torch.tensor([ids + [0] * (length - len(ids))])
    return replace(
        whole,
        ids=torch.cat([whole.ids, row]),
        positions=torch.arange(length).expand(len(whole.ids) + 1, -1),
        lengths=torch.cat([whole.lengths, torch.tensor([len(ids)])]),
    )


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"sample": True, "seed": 4}])
def test_text_only_with_media(options: dict[str, int]) -> None:
    """Fails when a prompt without media changes, or is changed by, the multimodal prompts of its batch."""
    model = tiny_model().eval()
    whole, ids = batch(model, ("image", "video", "audio"), lengths=(6, 12, 9)), [1, 7, 30, 9]
    seeds = [{"seed": 10 + row} if "seed" in options else {} for row in range(4)]
    chosen = [GenerateOptions(max_new_tokens=8, **{**options, **seed}) for seed in seeds]
    alone = [model.generate(row_of(whole, row), [chosen[row]])[0] for row in range(3)]
    alone += model.generate(text_only(ids), [chosen[3]])
    assert model.generate(with_text_only(whole, ids), chosen) == alone
    assert len({tuple(answer) for answer in alone}) > 1


def test_media_in_the_middle_of_an_answer() -> None:
    """Fails when an image that is put into an answer gives different answers than a prompt that has it there."""
    model = tiny_model().eval()
    growing = model.start_generation(text_only([1, 7, 30, 9]), GenerateOptions(max_new_tokens=8))
    assert isinstance(growing, Decoding)
    for _ in range(3):
        growing.step()
    answered = list(growing.answers[0])
    image = replace(row_of(batch(model, ("image",), lengths=(6,)), 0), sources=())
    model.append(growing, image)
    while not growing.is_done:
        growing.step()
    slots = {"image": image.media_slots["image"] + 4 + len(answered)}
    fresh = replace(text_only([1, 7, 30, 9, *answered, *image.ids[0].tolist()]), media=image.media, media_slots=slots)
    (rest,) = model.generate(fresh, GenerateOptions(max_new_tokens=5))
    assert growing.answers[0] == answered + rest
    ragged = replace(image, lengths=torch.tensor([4]))
    with pytest.raises(ValueError, match="appended together"):
        model.append(model.start_generation(text_only([1, 7]), GenerateOptions()), ragged)


def test_ids_are_reported_per_prompt() -> None:
    """Fails when an id is not reported, or reported for a different prompt."""
    model, reported = tiny_model().eval(), [[], [], [], []]
    whole = batch(model, ALL, lengths=(6, 12, 9, 8))
    answers = model.generate(whole, GenerateOptions(max_new_tokens=5), on_id=lambda row, new: reported[row].append(new))
    assert [ids[: len(answer)] for ids, answer in zip(reported, answers, strict=True)] == answers


def test_each_row_stops_by_itself() -> None:
    """Fails when one row's stop sequence ends, or does not end, another row; or stays in the answer."""
    model = tiny_model().eval()
    whole = batch(model, ALL, lengths=(6, 12, 9, 8))
    free = model.generate(whole, GenerateOptions(max_new_tokens=12))
    stop = tuple(free[1][3:5])
    stopped = model.generate(whole, GenerateOptions(max_new_tokens=12), [stop])
    for before, after in zip(free, stopped, strict=True):
        ends = [i for i in range(len(before)) if tuple(before[i : i + 2]) == stop]
        assert after == (before[: ends[0]] if ends else before)
    assert len(stopped[1]) <= 3


def test_builds_without_memory() -> None:
    """Fails when a part needs values, a file or a device while the plan of a run is made."""
    with torch.device("meta"):
        model = ChatModel(parse(ModelConfig, model_mapping()))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.media_lengths() == tiny_model().media_lengths()
    assert set_trainable(model, ["bridges.*"]).num_parameters == set_trainable(tiny_model(), []).num_parameters


def test_nothing_waits_for_the_device() -> None:
    """Fails when routes, fusion or the sums per source look at a value: tensors on the meta device have none."""
    real = batch(tiny_model(), ALL)
    with torch.device("meta"):
        model = ChatModel(parse(ModelConfig, model_mapping()))
    empty = real.to("meta")
    assert model.prepared(empty)[0].shape == (*real.ids.shape, 20)
    sums = per_source(torch.empty(12, device="meta"), empty)
    assert {source: count for source, (_, count) in sums.items()}["source_image"] == 6


@pytest.mark.gpu
def test_bf16_on_an_accelerator_follows_fp32() -> None:
    """Fails when a part's tensors stay on the CPU or in the wrong dtype, or bf16 moves the loss too far."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "dropout": 0.0}})
    set_trainable(model, ["bridges.*"])
    whole = batch(model, ALL)
    exact = model(whole).total.detach()
    place_model(model, "cuda", torch.bfloat16)
    loss = model.train()(whole.to("cuda"))
    loss.total.backward()
    torch.testing.assert_close(loss.total.detach().cpu(), exact, rtol=0.02, atol=0.0)
    assert len(model.eval().generate(whole.to("cuda"), GenerateOptions(max_new_tokens=4))) == len(ALL)


def test_names_follow_the_yaml() -> None:
    """Fails when a name in our checkpoints changes."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "temporal": {"visual": 2}}})
    names = set(model.state_dict())
    assert {name.split(".")[0] for name in names} == {"encoders", "bridges", "language"}
    assert {name for name in names if name.startswith("bridges.") and ".qformer." not in name} == {
        "bridges.perceiver.queries.visual",
        "bridges.perceiver.queries.sound",
        "bridges.perceiver.adapters.sound.weight",
        "bridges.perceiver.adapters.sound.bias",
        "bridges.perceiver.temporal.visual",
        "bridges.perceiver.output.weight",
        "bridges.perceiver.output.bias",
    }
    assert {
        "bridges.perceiver.qformer.layernorm.weight",
        "bridges.perceiver.qformer.encoder.layer.0.crossattention.attention.key.weight",
        "encoders.vision.vit.pos_embed",
        "encoders.vision.vit.blocks.0.attn.q_bias",
        "encoders.vision.norm.weight",
        "encoders.audio.relative_bias.weight",
        "encoders.audio.position.gain",
        "encoders.audio.blocks.0.attn.gate.weight",
        "encoders.audio.norm.bias",
        "language.lm.model.embed_tokens.weight",
        "language.lm.lm_head.weight",
    } <= names


def test_bf16_keeps_trainable_weights_in_fp32() -> None:
    """Fails when frozen weights stay in fp32, trainable ones do not, or the loss moves by more than rounding."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "dropout": 0.0}}, language=LANGUAGE)
    set_trainable(model, ["bridges.*"])
    whole = batch(model, ALL)
    exact = model(whole).total.detach()
    place_model(model, "cpu", torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("bridges.")} == {torch.float32}
    assert dtypes["language.lm.lm_head.weight"] == dtypes["encoders.vision.vit.blocks.0.mlp.fc1.weight"]
    assert dtypes["encoders.vision.vit.patch_embed.proj.weight"] == dtypes["encoders.audio.blocks.0.fc1.bias"]
    assert dtypes["language.lm.lm_head.weight"] == dtypes["encoders.audio.blocks.0.fc1.bias"] == torch.bfloat16
    loss = model(whole)
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total.detach(), exact, rtol=0.02, atol=0.0)


def test_the_residual_stream_of_a_deep_encoder_is_fp32() -> None:
    """Fails when the residual stream of a frozen EVA-ViT is rounded to bf16 after each block."""
    model = tiny_model(encoders={"vision": {**VISION, "depth": 24}, "audio": AUDIO}).requires_grad_(False).eval()
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    vision = model.encoders["vision"]
    exact = vision(images, "image").x

    def error(got: torch.Tensor) -> float:
        return float((got - exact).norm() / exact.norm())

    place_model(model, "cpu", torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = vision(images, "image").x
    kept = {name for name, parameter in vision.named_parameters() if parameter.dtype == torch.float32}
    assert {"vit.cls_token", "vit.pos_embed", "vit.blocks.0.attn.q_bias", "vit.blocks.0.norm1.weight"} <= kept
    assert not any(part in name for name in kept for part in ("patch_embed", "qkv", "proj", "mlp"))
    everything = vision.to(torch.bfloat16)(images.to(torch.bfloat16), "image").x.float()
    assert error(rounded) < 0.6 * error(everything)  # 0.3 of it, measured; how much both round is up to the processor


def test_the_relative_bias_of_beats_follows_the_compute_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the largest tensor of BEATs, a bias per query and key of every head, is in fp32 in a bf16 run."""
    model = tiny_model().requires_grad_(False).eval()
    place_model(model, "cpu", torch.bfloat16)
    products, multiply = [], torch.Tensor.__mul__

    def watched(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        products.append(multiply(one, other))
        return products[-1]

    monkeypatch.setattr(torch.Tensor, "__mul__", watched)
    with torch.autocast("cpu", torch.bfloat16):
        model.encoders["audio"](torch.randn(2, 32, 32), "audio")
    square = [x for x in products if x.ndim == 4 and x.shape[2] == x.shape[3]]  # [M, heads, N, N]
    assert square and {x.dtype for x in square} == {torch.bfloat16}
