"""Statements about images: listed labels, flips, pairs, and what other sources share with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.conversation.messages import media_parts
from chatbridge.datasets.builders import Dataset, Record
from chatbridge.datasets.builders._prompts import QUESTION, read_prompts
from chatbridge.datasets.builders.statements import with_sides_swapped
from chatbridge.datasets.feature_cache.content import content_of
from chatbridge.datasets.sample_reader import read_sample
from chatbridge.experiment.feature_cache.items import items_of
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.media_source import SideBySide
from tests.helpers.miniature import Miniature
from tests.helpers.statement_files import STATEMENT_FILES

HEADER = "\n\n### Input:\n"
PROMPTS = Path("configs/prompts/mmgpt.json")


def opened(name: str, folder: Path, **settings: Any) -> Dataset:
    return STATEMENT_FILES[name].open(folder, **settings)


def drawn(source: Dataset, count: int, index: int = 0) -> list[Record]:
    return [source.record(index, seeds.stream(3, "draws", number)) for number in range(count)]


def file_of(record: Record) -> Any:
    return next(media_parts(record.conversation)).ref


def test_every_order_of_an_nlvr_record_is_drawn_and_cached(tmp_path: Path):
    """fails when only one of the six images is used, the draw depends on anything but its seed, or a feature cache
    lacks the others"""
    source = opened("nlvr1", tmp_path)
    files = Counter(file_of(record).name for record in drawn(source, 120))
    assert len(files) == 6 and min(files.values()) >= 8
    assert drawn(source, 5) == drawn(source, 5)
    assert {Path(str(item.ref)).name for item in items_of(source, 0, ("image",))} == set(files)


def test_the_split_is_in_the_name_of_an_nlvr_file(tmp_path: Path):
    """fails when a file without a split, or with two, is read with wrong folders"""
    nlvr = STATEMENT_FILES["nlvr1"]
    content = next(iter(nlvr.files.values()))
    for name, message in (("records", "names no split"), ("dev_and_test", "names dev and test")):
        with pytest.raises(DataError, match=f"{message}, and images of NLVR are found by it; call it train.json"):
            Miniature(**{**vars(nlvr), "files": {name: content}}).open(tmp_path)


def test_labels_are_listed_in_a_share_of_the_draws(tmp_path: Path):
    """fails when the share is ignored, the prompt is lost, or the answer is spelled unlike its option"""
    source = opened("snli_ve", tmp_path, tag="ti-entail", options=0.5, input_header=HEADER, prompts=str(PROMPTS))
    texts = [record.conversation[0].text for record in drawn(source, 200)]
    listed = [text.endswith(f"{HEADER}entailment, neutral, contradiction") for text in texts]
    assert 0.4 < sum(listed) / 200 < 0.6
    suffixes = {text.partition(HEADER)[0].removeprefix("The sisters are hugging. ") for text in texts}
    assert suffixes == {one.removeprefix(f"{QUESTION} ") for one in read_prompts(PROMPTS)["ti-entail"]}
    pair = opened("nlvr2", tmp_path, options=1.0, input_header=HEADER)
    assert [one.text for one in drawn(pair, 1)[0].conversation] == [
        "The left image shows a dog.\n\n### Input:\ntrue, false", "true"
    ]  # fmt: skip
    released = opened("nlvr2", tmp_path, labels="file")
    assert drawn(released, 1)[0].references == ("True",)


def test_a_pair_changes_sides_with_its_words(tmp_path: Path):
    """fails when images are flipped without their words, too often, or a part of a longer word is replaced"""
    source = opened("nlvr2", tmp_path, pair="joined", flips=0.25)
    found = Counter((file_of(one).left.name, one.conversation[0].text) for one in drawn(source, 400))
    assert set(found) == {("dog.png", "The left image shows a dog."), ("car.png", "The right image shows a dog.")}
    assert 0.19 < found[("car.png", "The right image shows a dog.")] / 400 < 0.31
    assert with_sides_swapped("Left of it, the leftmost is RIGHT.") == "Right of it, the leftmost is LEFT."
    assert len({content_of(item.ref) for item in items_of(source, 0, ("image",))}) == 1  # both files are alike here
    assert len(items_of(source, 0, ("image",))) == 2
    assert len(items_of(opened("nlvr2", tmp_path, pair="joined", flips=0.0), 0, ("image",))) == 1


def test_images_of_a_pair_may_differ_in_size(tmp_path: Path):
    """fails when a pair of different sizes is refused, cropped, or not the picture of Multimodal-GPT"""
    source = opened("nlvr2", tmp_path, pair="joined", flips=0.0)
    folder = tmp_path / "media" / "train"
    rng = np.random.default_rng(0)
    for name, size in (("dog.png", (40, 30, 3)), ("car.png", (9, 64, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / name)
    processor = ImageProcessor(32)
    sample = read_sample(source, 0, {"image": processor}, seeds.stream(0, "x"), train=False)
    both = torch.cat([processor(folder / "dog.png"), processor(folder / "car.png")], dim=-1)
    assert isinstance(sample.media[0], torch.Tensor)
    assert torch.equal(sample.media[0], interpolate(both[None], (32, 32), mode="nearest")[0])
    with pytest.raises(MediaError, match="car.png: this image encoder takes one file per image; set pair: apart"):
        read_sample(source, 0, {"image": lambda ref, rng=None: torch.zeros(3)}, seeds.stream(0, "x"), train=False)
    (folder / "car.png").write_bytes(b"not an image")
    with pytest.raises(MediaError, match="car.png: not a readable image"):
        read_sample(source, 0, {"image": processor}, seeds.stream(0, "x"), train=False)
    sides = SideBySide(folder / "dog.png", folder / "car.png")
    assert content_of(sides) != content_of(SideBySide(sides.right, sides.left))


def test_settings_of_other_statements_are_problems(tmp_path: Path):
    """fails when a setting without effect is accepted, or statements about videos are"""
    for settings, message in (
        ({"pair": "apart"}, "pair is not used by the format 'snli_ve'; it belongs to: nlvr2"),
        ({"tag": "tv-verify"}, "cannot be 'tv-verify'"),
        ({"tag": "ti-verify"}, "set prompts: configs/prompts/mmgpt.json"),
        ({"options": 1.5}, "options"),
    ):
        with pytest.raises(ConfigError) as caught:
            opened("snli_ve", tmp_path, **settings)
        assert message in " ".join(str(caught.value).split())
