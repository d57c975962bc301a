"""A loader over images in tar shards and questions about audio, and sources with broken files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.loader import BatchLoader, build_loader
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import VideoProcessor
from tests.helpers.tiny_media import jpeg, layout, pairs, wav, write_json, write_tar

PROCESSORS = {
    "image": ImageProcessor(size=4, train=True),
    "audio": AudioProcessor(mel_bins=8, target_frames=16),
    "video": VideoProcessor(ImageProcessor(size=4, train=True), num_frames=2),
}


def data(folder: Path, **options: Any) -> DataConfig:
    """Images in two shards, questions about audio; different sizes and weights."""
    if not (folder / "pictures-0.tar").exists():
        write_tar(folder / "pictures-0.tar", pairs(9))
        write_tar(folder / "pictures-1.tar", pairs(4, first=9))
        for number in range(5):
            (folder / f"s{number}.wav").write_bytes(wav(200 + 100 * number))
        records = [
            {"video_id": f"s{n}", "question": [f"what {n}", "which"], "answer": [f"tone {n}", "x"]} for n in range(5)
        ]
        write_json(folder / "sounds.json", records)
    sources = {
        "pictures": {"name": "web_pairs", "shards": f"{folder}/pictures-*.tar", "modality": "image", "weight": 2},
        "sounds": {
            "name": "questions",
            "annotations": f"{folder}/sounds.json",
            "tag": "ta-qa",
            "audio_folder": str(folder),
            "weight": 1,
        },
    }
    return parse(DataConfig, {"sources": options.pop("sources", sources), **options})


def open_sources(config: DataConfig) -> dict[str, Dataset]:
    return {name: choice.part(choice.config, name) for name, choice in config.sources.items()}


def loader(
    config: DataConfig, world: int = 1, micro_batch: int = 4, accumulate: int = 2, **options: Any
) -> BatchLoader:
    mixture = build_mixture(config, open_sources(config), 11, world * micro_batch * accumulate)
    given = {"stop_step": 6, "num_workers": 0, "seed": 5, **options}
    lay, processors = given.pop("layout", layout("vicuna_v0")), given.pop("processors", PROCESSORS)
    return build_loader(mixture, lay, processors, micro_batch=micro_batch, accumulate=accumulate, world=world, **given)


def ids(steps: list[list[Batch]]) -> list[list[tuple[str, ...]]]:
    return [[batch.sample_ids for batch in step] for step in steps]


def assert_same(left: list[list[Batch]], right: list[list[Batch]]) -> None:
    assert ids(left) == ids(right)
    for one, other in zip([b for step in left for b in step], [b for step in right for b in step], strict=True):
        assert one.ids.equal(other.ids) and one.target.equal(other.target) and one.predict_at.equal(other.predict_at)
        assert (
            one.failures == other.failures and one.sources == other.sources and one.media.keys() == other.media.keys()
        )
        for modality, media in one.media.items():
            assert media.equal(other.media[modality]) and one.media_slots[modality].equal(other.media_slots[modality])


def broken_pictures(folder: Path, good: int = 6, bad: int = 3) -> DataConfig:
    members = pairs(good)
    for number in range(good, good + bad):
        kinds = [jpeg(side=40)[:200], b"", b"<html>404</html>"]
        members += [(f"{number:05}.jpg", kinds[number % 3]), (f"{number:05}.txt", "broken")]
    tar = write_tar(folder / "broken.tar", members)
    return data(folder, sources={"web": {"name": "web_pairs", "shards": str(tar), "modality": "image"}})
