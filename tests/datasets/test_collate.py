"""Token sequences to batches: positions, media slots and media that belong together."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from chatbridge.common.errors import DataError
from chatbridge.common.types import Sample
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.datasets.collate import collate
from tests.helpers.tiny_media import layout


def image(value: float) -> tuple[Media, torch.Tensor]:
    return Media("image", "x"), torch.full((3, 2, 2), value)


def sound(value: float) -> tuple[Media, torch.Tensor]:
    return Media("audio", "x"), torch.full((1, 4, 2), value)


def sample(name: str, *items: tuple[Media, torch.Tensor], question: str = "what", answer: str = "a red dog") -> Sample:
    conversation = (user(*(part for part, _ in items), question), assistant(answer))
    return Sample(name, f"source-{name}", conversation, tuple(tensor for _, tensor in items))


def test_sequences_are_padded_on_the_right_and_nothing_is_shifted():
    """fails when padding is on the left, flat positions are off by one or by a sequence, or the mask is built"""
    samples = [sample("a", image(1), answer="one two three four"), sample("b", image(2), answer="one")]
    lay = layout("vicuna_v0")
    batch = collate(samples, lay)
    rows = [lay.training_sequence(one.conversation) for one in samples]
    width = max(map(len, rows))
    assert batch.ids.shape == batch.positions.shape == (2, width)
    assert batch.lengths.tolist() == [len(rows[0].ids), len(rows[1].ids)] and batch.lengths[0] > batch.lengths[1]
    assert batch.ids[1, len(rows[1].ids) :].eq(lay.tokenizer.pad_id).all() and batch.segments is None
    assert batch.positions.tolist() == [list(range(width))] * 2
    assert batch.ids.flatten()[batch.predict_at + 1].tolist() == batch.target.tolist(), (
        "each point predicts the next id"
    )
    assert batch.target.tolist() == rows[0].target + rows[1].target
    assert batch.num_supervised == len(batch.target) > 0
    assert batch.sources == ("source-a", "source-b") and batch.sample_ids == ("a", "b")


def test_media_and_slots_follow_the_order_of_appearance():
    """fails when an item gets the slots of another, modalities mix, or a second item of a conversation is lost"""
    samples = [
        sample("a", image(1), sound(2), image(3)),
        sample("b"),
        sample("c", sound(4), image(5)),
    ]
    lay = layout("vicuna_v0")
    batch = collate(samples, lay)
    assert batch.media["image"][:, 0, 0, 0].tolist() == [1, 3, 5] and batch.media["image"].shape == (3, 3, 2, 2)
    assert batch.media["audio"][:, 0, 0, 0].tolist() == [2, 4]
    assert batch.media_slots["image"].shape == (3, 2) and batch.media_slots["audio"].shape == (2, 4)
    width = batch.ids.shape[1]
    expected: dict[str, list[list[int]]] = {"image": [], "audio": []}
    for b, one in enumerate(samples):
        for modality, _, start, length in lay.training_sequence(one.conversation).media_slots:
            expected[modality].append([b * width + start + k for k in range(length)])
    assert {modality: slots.tolist() for modality, slots in batch.media_slots.items()} == expected
    for slots in batch.media_slots.values():
        assert batch.ids.flatten()[slots].eq(lay.tokenizer.pad_id).all(), "nothing but padding stands in media slots"
    assert batch.media_slots["image"].dtype == batch.ids.dtype == batch.predict_at.dtype == torch.int64
    assert batch.to("cpu").media_rows == {"image": (0, 0, 2), "audio": (0, 2)}


def test_every_cut_conversation_counts():
    """fails when only dropped turns count as cut, and an answer that lost its end does not"""
    whole = sample("a", answer="one two three")
    short = layout("vicuna_v0", max_tokens=len(layout("vicuna_v0").training_sequence(whole.conversation).ids) - 3)
    assert collate([whole, sample("b", answer="x"), whole], short).num_cut == 2


def test_media_of_a_cut_turn_are_left_out():
    """fails when the image of a cut turn still goes to the encoder and shifts all later ones"""
    long = (user(Media("image", "x"), "what"), assistant("one"), user(Media("image", "y"), "and"), assistant("two"))
    lay = layout("vicuna_v0")
    short = layout("vicuna_v0", max_tokens=len(lay.training_sequence(long[:2]).ids) + 5)
    samples = [Sample("a", "s", long, (image(1)[1], image(2)[1])), sample("b", image(3))]
    batch = collate(samples, short)
    assert batch.media["image"][:, 0, 0, 0].tolist() == [1, 3] and len(batch.media_slots["image"]) == 2
    assert batch.num_cut == 1 and collate(samples, lay).num_cut == 0


def test_prompts_have_no_supervised_token():
    """fails when an evaluation batch is supervised or the answer is already in it"""
    question = Sample("q", "s", (user(Media("image", "x"), "what"),), (image(1)[1],))
    lay = layout("vicuna_v0")
    batch = collate([question], lay, prompt=True)
    assert batch.num_supervised == 0
    assert batch.ids[0].tolist() == lay.prompt(question.conversation).ids


def test_text_only_batches_have_no_media():
    """fails when a batch without media has empty tensors, on which an encoder would run"""
    batch = collate([sample("a"), sample("b")], layout("vicuna_v0"))
    assert batch.media == {} and batch.media_slots == {}


@pytest.mark.parametrize("media", [(), (torch.zeros(3, 2, 2),) * 2])
def test_a_wrong_number_of_media_names_the_sample(media):
    """fails when a conversation with more media parts than tensors ends in an IndexError, or a tensor is dropped"""
    one = Sample("a", "s", sample("a", image(1)).conversation, media)
    with pytest.raises(DataError, match=f"'a' of source 's' has 1 media parts.*{len(media)} decoded media"):
        collate([one], layout("vicuna_v0"))


def test_media_of_different_shapes_name_their_samples():
    """fails when the error is that of torch.stack"""
    odd = Sample("odd", "s2", sample("odd", image(1)).conversation, (torch.zeros(3, 5, 5),))
    with pytest.raises(
        DataError,
        match=r"image tensors.*int64\[3, 2, 2\] in sample 'a' of source 'source-a', float32\[3, 5, 5\] in 'odd'",
    ):
        collate([sample("a", image(1)), odd], layout("vicuna_v0"))


def test_bytes_stay_bytes():
    """fails when uint8 pixels become floats on the way, or are mixed with normalised ones in one batch"""
    pixels = [
        Sample(name, "s", sample(name, image(1)).conversation, (torch.zeros(3, 2, 2, dtype=torch.uint8),))
        for name in "ab"
    ]
    assert collate(pixels, layout("vicuna_v0")).media["image"].dtype == torch.uint8
    with pytest.raises(DataError, match=r"uint8\[3, 2, 2\] in sample 'a' of source 's', int64\[3, 2, 2\] in 'c'"):
        collate([pixels[0], sample("c", image(1))], layout("vicuna_v0"))


def test_nothing_supervised_is_an_error():
    """fails when a conversation without an answer becomes a silent zero loss"""
    with pytest.raises(ValueError, match="no token of this conversation is supervised"):
        collate([Sample("a", "s", (user("what"),))], layout("vicuna_v0"))


def test_a_batch_is_pickled_with_few_file_descriptors():
    """fails when a batch changes between processes, or each of its small tensors takes a file descriptor again"""
    samples = [Sample("a", "one", (user(Media("image", "x")), assistant("words")), (torch.zeros(3, 300, 300),))]
    batch = collate(samples, layout())
    state = batch.__getstate__()
    assert all(isinstance(state[name], np.ndarray) for name in ("ids", "positions", "lengths", "predict_at", "target"))
    assert isinstance(state["media"]["image"], torch.Tensor)
    other = pickle.loads(pickle.dumps(batch))
    for name in ("ids", "positions", "lengths", "predict_at", "target"):
        assert torch.equal(getattr(other, name), getattr(batch, name))
        getattr(other, name).add_(1)  # and may be written to
    assert torch.equal(other.media_slots["image"], batch.media_slots["image"])
    assert (other.sources, other.sample_ids, other.num_points) == (batch.sources, batch.sample_ids, batch.num_points)
