"""The route of one modality: uint8 images, and items with a different number of frames than the route's."""

from __future__ import annotations

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.common.types import Features
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.routes import mean_of_frames
from tests.helpers.tiny_models import ROUTES, VISION, tiny_model
from tests.helpers.tolerances import FP32


def pixels(model: ChatModel, *shape: int) -> torch.Tensor:
    side = model.encoders["vision"].config.image_size
    return torch.randint(0, 256, (*shape, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_bytes_are_normalised_like_floats() -> None:
    """Fails when uint8 images give different tokens than the same images as normalised floats"""
    model = tiny_model().eval()
    raw = pixels(model, 2)
    evaluation = model.processors(train=False)["image"]
    ready = torch.stack([evaluation(each) for each in raw])
    with torch.no_grad():
        assert torch.equal(model.routes["image"].tokens(raw), model.routes["image"].tokens(ready))
    trained = model.processors(train=True)["image"](raw[0])
    assert trained.dtype == torch.uint8 and torch.equal(trained, raw[0])


def test_videos_as_bytes_have_their_frames_merged() -> None:
    """Fails when the frames of lean videos are not normalised, or land in another order"""
    model = tiny_model().eval()
    route = model.routes["video"]
    raw = pixels(model, 2, route.pieces.count)
    with torch.no_grad():
        want = route.tokens(model.encoders["vision"].statistics.normalised(raw))
        assert torch.equal(route.tokens(raw), want)


def test_another_number_of_frames_where_the_tokens_stay() -> None:
    """Fails when a bridge with fixed queries rejects more frames, or one whose tokens would change accepts them"""
    model = tiny_model().eval()
    route = model.routes["video"]
    count = route.pieces.count
    assert route.accepts(count) and route.accepts(count + 3)
    with torch.no_grad():
        assert route.tokens(pixels(model, 1, count + 3)).shape[1] == route.num_tokens
    video = {"encoder": "vision", "bridge": "perceiver", "frames": {"count": 2, "merge": "separate"}}
    apart = tiny_model(routes={**ROUTES, "video": video})
    other = apart.routes["video"]
    assert other.accepts(2) and not other.accepts(3)
    with pytest.raises(ValueError, match=f"same {other.num_tokens} tokens"):
        other.tokens(pixels(apart, 1, 3))


def test_the_mean_of_pieces() -> None:
    """Fails when `merge: mean` is not the mean of the tokens that the bridge makes of each piece, or its length depends
    on how many pieces there are"""
    video = {"encoder": "vision", "bridge": "perceiver", "pieces": {"count": 3, "merge": "mean"}}
    model = tiny_model(routes={**ROUTES, "video": video}).eval()
    route, image = model.routes["video"], model.routes["image"]
    assert route.num_tokens == image.num_tokens and route.accepts(1) and route.accepts(5)
    raw = pixels(model, 2, 3)
    with torch.no_grad():
        each = torch.stack([image.tokens(raw[:, number]) for number in range(3)])  # [T, M, K, D]
        torch.testing.assert_close(route.tokens(raw), each.mean(0), rtol=FP32, atol=FP32)
        assert route.tokens(pixels(model, 1, 5)).shape[1] == route.num_tokens


def test_the_mean_of_features() -> None:
    """Fails when `merge: mean_features` is not the bridge over the mean of the pieces' features, or differs from `mean`
    for a linear bridge"""
    settings = {"bridges": {"linear": {"name": "linear"}}, "encoders": {"vision": VISION}}
    found = {}
    for merge in ("mean_features", "mean"):
        video = {"encoder": "vision", "bridge": "linear", "pieces": {"count": 3, "merge": merge}}
        model = tiny_model(routes={"video": video}, **settings).eval()
        route, raw = model.routes["video"], pixels(model, 2, 3)
        assert route.num_tokens == 5 and route.accepts(1) and route.accepts(5)
        with torch.no_grad():
            found[merge] = route.tokens(raw)
            x = route.encoder(route.encoder.statistics.normalised(raw.flatten(0, 1)), "video").x.unflatten(0, (2, 3))
            torch.testing.assert_close(found[merge], route.bridge(Features(x.mean(1)), "video"), rtol=FP32, atol=FP32)
    torch.testing.assert_close(found["mean"], found["mean_features"], rtol=FP32, atol=FP32)
    mask = torch.tensor([[True, False], [True, False], [False, False]])
    mean = mean_of_frames(Features(torch.tensor([[[1.0], [9.0]], [[3.0], [9.0]], [[7.0], [9.0]]]), mask), 3)
    assert mean.x.tolist() == [[[2.0], [0.0]]] and mean.mask is not None and mean.mask.tolist() == [[True, False]]


def test_sounds_are_never_bytes() -> None:
    """Fails when bytes for an encoder without pixel statistics are fed to it as they are"""
    model = tiny_model()
    with pytest.raises(ValueError, match="takes float media only"):
        _ = model.encoders["audio"].statistics


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_pool_larger_than_the_features_is_an_error(name: str) -> None:
    """Fails when a bridge makes more tokens than it has features, or the message lacks one of the two numbers"""
    one_way = {"encoders": {"vision": VISION}, "routes": {"image": {"encoder": "vision", "bridge": "see"}}}
    model = tiny_model(**one_way, bridges={"see": {"name": name}})
    features = model.routes["image"].num_tokens
    assert tiny_model(**one_way, bridges={"see": {"name": name, "pool": features}}).media_lengths()["image"] == features
    with pytest.raises(ConfigError, match=f"pool: {features + 1} tokens cannot be made of {features} .*image") as error:
        tiny_model(**one_way, bridges={"see": {"name": name, "pool": features + 1}})
    assert error.value.problems[0].path == "model.bridges.see"


def test_fewer_frames_than_a_pool_needs_are_not_taken() -> None:
    """Fails when a source with too few frames for the route's pool ends in a traceback, or is taken"""
    routes = {"video": {"encoder": "vision", "bridge": "see", "frames": {"count": 4}}}
    model = tiny_model(encoders={"vision": VISION}, routes=routes, bridges={"see": {"name": "mlp", "pool": 10}})
    per_frame = model.encoders["vision"].num_tokens("video")
    route = model.routes["video"]
    assert 10 > per_frame and route.accepts(3) and not route.accepts(1)
