"""Mistakes of a `model:` node are reported before anything is built, all together, with the nearest name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse, plain
from chatbridge.models.config import PIECES_KEYS, ModelConfig, RouteConfig
from tests.helpers.tiny_models import AUDIO, PERCEIVER, ROUTES, VISION, model_mapping, tiny_model


def problems_of(**changes: Any) -> dict[str, Any]:
    """path -> problem"""
    with pytest.raises(ConfigError) as error:
        parse(ModelConfig, model_mapping(**changes), path="model")
    return {problem.path: problem for problem in error.value.problems}


def test_names_in_routes() -> None:
    """Fails when a route may name a part that does not exist, or the nearest name is not offered."""
    routes = {**ROUTES, "image": {"encoder": "visoin", "bridge": "perceivers"}}
    found = problems_of(routes=routes)
    assert found["model.routes.image.encoder"].nearest == "vision"
    assert found["model.routes.image.encoder"].allowed == ("vision", "audio")
    assert found["model.routes.image.bridge"].nearest == "perceiver"


@pytest.mark.parametrize("name", ["keys", "a.b", "training"])
def test_names_that_no_state_dict_can_have(name: str) -> None:
    """Fails when the name of a part or a set of queries ends in a KeyError of torch."""
    routes = {modality: {**way, "bridge": name} for modality, way in ROUTES.items()}
    found = problems_of(
        encoders={"vision": VISION, "audio": AUDIO, name: VISION}, bridges={name: PERCEIVER}, routes=routes
    )
    assert {f"model.encoders.{name}", f"model.bridges.{name}"} <= set(found)
    queries = {"image": name, "video": name, "audio": name}
    assert "queries" in str(problems_of(bridges={"perceiver": {**PERCEIVER, "queries": queries, "temporal": {}}}))


def test_modalities() -> None:
    """Fails when a route sends a modality to an encoder that cannot read it, or to queries that do not exist."""
    found = problems_of(
        routes={**ROUTES, "audio": {"encoder": "vision", "bridge": "perceiver"}},
        encoders={"vision": VISION},
        bridges={"perceiver": {**PERCEIVER, "queries": {"image": "visual", "video": "visual"}}},
    )
    assert found["model.routes.audio"].allowed == ("image", "video")
    assert "audio" in found["model.bridges.perceiver.queries"].message


def test_frames_without_a_vector() -> None:
    """Fails when a route reads more frames at once than the bridge has vectors for; separate frames are all frame 0."""
    bridges = {"perceiver": {**PERCEIVER, "temporal": {"visual": 2}}}
    four = {"encoder": "vision", "bridge": "perceiver", "frames": {"count": 4}}
    found = problems_of(bridges=bridges, routes={**ROUTES, "video": four})
    assert "video reads 4" in found["model.bridges.perceiver.temporal.visual"].message
    apart = {**four, "frames": {"count": 4, "merge": "separate"}}
    parse(ModelConfig, model_mapping(bridges=bridges, routes={**ROUTES, "video": apart}))


def test_parts_that_cannot_be_built_name_their_settings(tmp_path) -> None:
    """Fails when a problem that is found while building (widths, sizes of a file) has no path in the YAML."""
    with pytest.raises(ConfigError, match="different widths") as error:
        tiny_model(bridges={"perceiver": {"name": "linear"}})
    assert error.value.problems[0].path == "model.bridges.perceiver"
    torch.save({"cfg": {"layer_norm_first": True}}, tmp_path / "beats.pt")
    with pytest.raises(ConfigError, match="layer_norm_first") as error:
        tiny_model(encoders={"vision": VISION, "audio": {"name": "beats", "weights": str(tmp_path / "beats.pt")}})
    assert error.value.problems[0].path == "model.encoders.audio"


def test_unused_parts() -> None:
    """Fails when an encoder or bridge that no route uses is built without an error."""
    found = problems_of(encoders={**model_mapping()["encoders"], "spare": VISION})
    assert set(found) == {"model.encoders.spare"}


def test_contradictions_inside_parts() -> None:
    """Fails when sizes that cannot be built are only noticed by a crash in the network."""
    found = problems_of(
        encoders={**model_mapping()["encoders"], "vision": {**VISION, "heads": 5, "image_size": 30}},
        bridges={"perceiver": {**PERCEIVER, "heads": 3, "temporal": {"vision": 2}}},
        routes={**ROUTES, "video": {**ROUTES["video"], "clips": {"count": 2}}},
    )
    words = " ".join(problem.message for problem in found.values())
    for part in ("5 heads", "multiple of patch_size", "3 heads", "there is no query set 'vision'", "frames and clips"):
        assert part in words


def test_pieces_by_any_name() -> None:
    """Fails when frames, clips and pieces do not mean the same, or two of them together are not reported"""
    found = {word: parse(RouteConfig, {"encoder": "e", "bridge": "b", word: {"count": 4}}) for word in PIECES_KEYS}
    assert {route.pieces_config.count for route in found.values()} == {4} and [*found] == ["pieces", "frames", "clips"]
    assert parse(RouteConfig, plain(found["frames"])) == found["frames"]  # as resolved.yaml has it
    with pytest.raises(ConfigError, match="has pieces and frames, which are names of one setting; keep pieces"):
        parse(RouteConfig, {**plain(found["frames"]), "pieces": {"count": 4}})


def test_pieces_of_what_is_read_whole() -> None:
    """Fails when several pieces of an image are found only by the model, with the shape of a tensor"""
    image = {**ROUTES["image"], "pieces": {"count": 4, "merge": "mean"}}
    found = problems_of(routes={**ROUTES, "image": image})
    (problem,) = found.values()
    assert problem.path == "model.routes.image.pieces.count" and problem.hint == "set it to 1"
    assert "is 4, but encoder 'vision' (eva_vit) reads 1 per image" in problem.message


def test_an_unknown_modality_in_a_route() -> None:
    """Fails when a slip in the name of a route is not answered with the modality that was meant, and all there are"""
    problem = problems_of(routes={**ROUTES, "vidio": ROUTES["video"]})["model.routes.vidio"]
    assert problem.nearest == "video"
    assert problem.allowed[:3] == ("image", "video", "audio")


def test_files_and_folders(tmp_path) -> None:
    """Fails when a missing weights file, or a folder that holds no model, is not reported with the rest."""
    (tmp_path / "lm").mkdir()
    found = problems_of(
        encoders={**model_mapping()["encoders"], "vision": {**VISION, "weights": str(tmp_path / "eva.pth")}},
        language={"name": "causal_lm", "weights": str(tmp_path / "lm")},
    )
    assert "eva.pth" in found["model.encoders.vision.weights"].message
    assert "config.json" in found["model.language.weights"].message


def test_processors_need_no_model() -> None:
    """Fails when preprocessing cannot be made from settings alone, or ignores the route's number of frames."""
    made = parse(ModelConfig, model_mapping()).processors(train=True)
    assert set(made) == {"image", "video", "audio"}
    assert made["video"].num_frames == 2 and made["audio"].num_clips == 1
    assert made["image"].train and not parse(ModelConfig, model_mapping()).processors(train=False)["image"].train
