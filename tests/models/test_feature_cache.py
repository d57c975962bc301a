"""What identifies an encoder, and features that pass a route without it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from chatbridge.common.types import Features
from chatbridge.models.feature_cache import encoder_settings, file_print, load_encoders, pattern_for, weights_hash
from chatbridge.models.routes import encoded
from tests.helpers.tiny_models import LANGUAGE, MEDIA, PERCEIVER, ROUTES, VISION, batch, tiny_model


def test_the_hash_changes_with_every_value_and_dtype():
    """fails when one value of one tensor, changed in its last bit, leaves the fingerprint as it was"""
    encoder = tiny_model().encoders["vision"]
    first = weights_hash(encoder)
    for parameter in encoder.parameters():
        value = parameter.data.view(-1)[-1:]
        before = value.clone()
        value.copy_(torch.nextafter(value, torch.tensor([9.0])))
        assert weights_hash(encoder) != first
        value.copy_(before)
    assert weights_hash(encoder) == first != weights_hash(encoder.to(torch.bfloat16))


def test_the_encoders_alone_are_those_of_the_model():
    """fails when an encoder without weights has other random values in the command that builds a cache"""
    model = tiny_model()
    torch.manual_seed(0)
    alone = load_encoders(model.config, ["audio"], torch.device("cpu"), torch.float32)
    assert list(alone.encoders) == ["audio"]
    assert weights_hash(alone.part("audio")) == weights_hash(model.encoders["audio"])


def test_settings_without_defaults_and_locations():
    """fails when the place of the weights or a new setting with its default makes a cache useless"""
    found = encoder_settings(tiny_model().config.encoders["vision"])
    assert found["class"] == "eva_vit" and found["settings"] == {k: v for k, v in VISION.items() if k != "name"}


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("encoders.vision.*", True), ("encoders.*", True), ("encoders.vision.norm.weight", True), ("enc*.v*.x", True),
        ("bridges.*", False), ("encoders.audio.*", False), ("language.*", False),
    ],
)  # fmt: skip
def test_patterns_for_an_encoder(pattern, matches):
    """fails when a trained encoder is only found after the model was built"""
    assert pattern_for("vision", [pattern]) == (pattern if matches else None)


def test_the_print_of_a_file_changes_with_its_content(tmp_path):
    """fails when other weights at the same place look like the old ones"""
    path = tmp_path / "w.bin"
    path.write_bytes(bytes(2_000_000))
    first = file_print(path)
    for at in (0, 1_999_999):
        path.write_bytes(bytes(at) + b"x" + bytes(1_999_999 - at))
        assert file_print(path) != first
    assert file_print(tmp_path) != first


def stored(model, modality: str, media: torch.Tensor, values: str = "fp32") -> Features:
    """The features of items as a batch has them: x [M, T * N, W]"""
    route = model.routes[modality]
    flat, frames = route.flat(media)
    x = encoded(route.encoder, modality, flat).x.unflatten(0, (-1, frames)).flatten(1, 2).detach()
    if values == "int8":
        scale = x.abs().amax(-1, keepdim=True) / 127
        return Features((x / scale).round().to(torch.int8), None, frames, scale)
    return Features(x, None, frames)


@pytest.mark.parametrize("merge", ["concat", "separate", "mean", "mean_features"])
@pytest.mark.parametrize("modality", list(MEDIA))
def test_features_give_the_tokens_of_their_media(merge, modality):
    """fails when pieces are merged in another order than after the encoder"""
    routes = {**ROUTES, "video": {**ROUTES["video"], "frames": {"count": 2, "merge": merge}}}
    model = tiny_model(routes=routes, bridges={"perceiver": {**PERCEIVER, "dropout": 0.0}}, language=LANGUAGE)
    route, media = model.routes[modality], torch.randn(3, *MEDIA[modality], generator=torch.Generator().manual_seed(1))
    expected = route.tokens(media)
    assert torch.equal(route.tokens(stored(model, modality, media)), expected)
    off = (route.tokens(stored(model, modality, media, "int8")) - expected).norm() / expected.norm()
    assert 0 < off < 0.02


def test_features_of_another_number_of_pieces_are_refused():
    """fails when a batch of four frames passes a route of two with another number of tokens"""
    routes = {**ROUTES, "video": {**ROUTES["video"], "frames": {"count": 2, "merge": "separate"}}}
    model = tiny_model(routes=routes)
    with pytest.raises(ValueError, match="features of 4 pieces, expected 2"):
        model.routes["video"].tokens(stored(tiny_model(), "video", torch.randn(1, 4, 3, 28, 28)))


def test_a_batch_moves_with_its_features():
    """fails when features stay behind on a device, or are lost between processes"""
    import pickle

    model = tiny_model()
    given = batch(model, ("video",))
    given.media["video"] = stored(model, "video", given.media["video"], "int8")
    for moved in (given.to("cpu"), pickle.loads(pickle.dumps(given))):
        found = moved.media["video"]
        assert isinstance(found, Features) and found.frames == 2
        assert torch.equal(found.floats(), given.media["video"].floats())
    assert given.to("meta").media["video"].scale.device.type == "meta"
    assert SimpleNamespace(**vars(model(given))).count == given.num_supervised
