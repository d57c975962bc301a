"""The 14 sources of stage 2: as published, and each read from a miniature of its real layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import MediaError
from chatbridge.common.types import Batch
from chatbridge.config.merge import load
from chatbridge.conversation.messages import media_parts
from chatbridge.conversation.templates import build_template
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.builders._prompts import published_prompts, read_prompts
from chatbridge.datasets.collate import stack
from chatbridge.datasets.order.mixture import Draw, Mixture, split
from chatbridge.datasets.sample_reader import SampleReader, read_sample
from chatbridge.experiment.build import build_model
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from tests.helpers import mini_multis
from tests.helpers.mini_world import write_language_model, write_yaml
from tests.helpers.tiny_models import ROUTES, model_mapping

ROOT = Path(__file__).parents[3]
BUILDER_OF = {"qa": "questions", "cap": "captions", "rea": "dialogues", "det": "dialogues", "conv": "dialogues"}
SHORT = ("vqav2", "vgqa", "cococap", "msrvttqa", "msrvttcap", "audiocap")


@cache
def shipped() -> dict[str, dict[str, Any]]:
    return load(ROOT / "configs/mixtures/multis.yaml")[0]["data"]["sources"]


def test_the_mix_is_the_published_one(reference: Path):
    """fails when a source, its files, tag, frames, clips, batch or share differs from the published mix file"""
    mix = json.loads((reference / "data/multis_mix_stage2.json").read_text())["data_cfg"]["train"]
    total, sources = sum(entry["steps"] for entry in mix), shipped()
    weights = sum(source["weight"] for source in sources.values())
    assert len(mix) == len(sources) == 14
    for entry in mix:
        files = entry["datasets"][0]
        source = dict(sources[files["name"].replace("-", "_")])
        assert source.pop("weight") / weights == entry["steps"] / total
        visual_folder = "image_folder" if files["datatype"] == "image" else "video_folder"
        assert source == without_none(
            {
                "name": BUILDER_OF[entry["task"].split("-")[1].removeprefix("short")],
                "tag": entry["task"],
                "annotations": _placed(files["txt"]),
                visual_folder: _placed(files.get("video")),
                "audio_folder": _placed(files.get("audio")),
                "batch": entry["batch_size"],
                "frames": entry.get("video_sample_num"),
                "clips": entry.get("audio_sample_num"),
            }
        )


def without_none(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None}


def _placed(path: str | None) -> str | None:
    return path and path.replace("./dataset/MULTIS/", "data/multis/").rstrip("/")


def test_the_run_is_the_published_one():
    """fails when a hyperparameter of stage 2 changes, or it starts from anything but stage 1"""
    config = load(ROOT / "train_configs/chatbridge_instruct.yaml")[0]
    run = config["run"]
    assert run["optimizer"] == {"lr": 1e-5, "weight_decay": 0.05}
    assert run["schedule"] == {
        "kind": "lavis_cosine", "warmup_steps": 500, "warmup_lr": 1e-6, "min_lr": 8e-7, "epoch_steps": 2000
    }  # fmt: skip
    assert (run["max_steps"], run["clip_norm"], config["data"]["max_tokens"]) == (5 * 2000, None, 220)
    assert config["model"]["bridges"]["perceiver"]["dropout"] == 0.1
    assert (config["data"]["mix"], config["model"]["trainable"]) == ("step", ["bridges.*"])
    stage1 = ROOT / "train_configs/chatbridge_pretrain.yaml"
    if stage1.is_file():
        assert run["init_from"] == load(stage1)[0]["run"]["output_dir"]


@pytest.mark.parametrize("ranks, accumulate", [(8, 1), (1, 8), (4, 2), (2, 1), (16, 1)])
def test_batches_divide_on_usual_machines(ranks: int, accumulate: int):
    """fails when a batch of the mix cannot be divided over the machines in the run's comments"""
    assert all(source["batch"] % (ranks * accumulate) == 0 for source in shipped().values())


@dataclass(frozen=True)
class World:
    """The miniature, and the published mix over a small model opened on it."""

    root: Path
    config: Experiment
    sources: dict[str, Dataset]

    def mixture(self) -> Mixture:
        run = self.config.run
        return build_mixture(self.config.data, self.sources, run.seed, 128, max_steps=run.max_steps, micro_batch=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Prepared by the scripts from miniatures of the public files; the shipped run file has a small model."""
    root = tmp_path_factory.mktemp("world")
    mini_multis.write_raw(root / "raw", root / "data/multis")
    mini_multis.prepare(root / "raw", root / "data/multis")
    write_language_model(root / "lm")
    video = {"encoder": "vision", "bridge": "perceiver", "frames": {"count": 4}}
    model = model_mapping(
        language={"name": "causal_lm", "weights": "lm", "template": "vicuna_v0"}, routes={**ROUTES, "video": video}
    )
    shipped_run = load(ROOT / "train_configs/chatbridge_instruct.yaml")[0]["run"]
    run = {**shipped_run, "init_from": None, "accumulate": 8}  # one process
    base = str(ROOT / "configs/mixtures/multis.yaml")
    content = {"base": [base], "model": {**model, "trainable": ["bridges.*"]}, "run": run,
               "data": {"max_tokens": 220, "num_workers": 0}}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        opened = open_config(Experiment, write_yaml(root / "run.yaml", content))
        yield World(root, opened.config, open_data(opened).sources)


def test_shares_are_the_published_ones(world: World):
    """fails when a source is drawn more or less often than its share of the published steps"""
    mixture = world.mixture()
    assert mixture.shares == pytest.approx({name: 1 / 22 if name in SHORT else 2 / 22 for name in mixture.names})
    drawn, steps = mixture.counts(22_000), {}
    for name, source in shipped().items():
        steps[name], rest = divmod(drawn[name], source["batch"])
        assert not rest
    assert sum(steps.values()) == 22_000
    assert all(abs(steps[name] - (1000 if name in SHORT else 2000)) < 150 for name in steps), steps


def test_a_step_of_every_source_can_be_read(world: World):
    """fails when a source cannot be read with its published batch, frames and clips, or loses a sample on the way"""
    mixture, config = world.mixture(), world.config
    built = build_model(config.model)
    model, layout = built.model, built.layout(config.template, config.data.max_tokens)
    reader = SampleReader(mixture, layout, model.processors(train=True), seed=1)
    steps = {}
    for step in range(400):
        steps.setdefault(mixture.draws(step)[0].source, step)
    assert set(steps) == set(shipped())
    for name, step in steps.items():
        batches = [batch_of(reader, split(mixture.draws(step), rank, world=8, accumulate=1)[0]) for rank in range(8)]
        source = shipped()[name]
        assert len(batches) == 8 and sum(len(batch.sources) for batch in batches) == source["batch"]
        assert {one for batch in batches for one in batch.sources} == {name}
        assert not [failure for batch in batches for failure in batch.failures]
        items = source["batch"] // 8
        shapes = {modality: tuple(media.shape[:2]) for modality, media in batches[0].media.items()}
        pieces = {"ti": {"image": (items, 3)}, "tv": {"video": (items, 4)}, "ta": {"audio": (items, 1)}}
        pieces["tva"] = {"video": (items, 4), "audio": (items, 1)}
        assert shapes == pieces[source["tag"].split("-")[0]]


def batch_of(reader: SampleReader, draws: list[Draw]) -> Batch:
    read = reader(draws)
    failures = tuple(failure for one in read for failure in one.failures)
    return stack([one.sample for one in read], [one.sequence for one in read], 0, failures)


def test_a_chat_about_a_video_needs_its_audio(world: World):
    """fails when a video without its audio is trained on with an answer about the audio"""
    config, source = world.config, world.sources["valor_conver"]
    assert config.data.media.missing_sound == "refuse"
    taken = {kind: one.within(config.data.media) for kind, one in config.model.processors(train=True).items()}
    audio = world.root / f"data/multis/audioset/audio_22050hz_recons/{source.sample_id(0)}.wav"
    audio.rename(audio.with_suffix(".away"))
    with pytest.raises(MediaError, match="no such file"):
        read_sample(source, 0, taken, seeds.stream(0, "test"))
    audio.with_suffix(".away").rename(audio)
    assert len(read_sample(source, 0, taken, seeds.stream(0, "test")).media) == 2


def test_conversations_are_those_of_the_tag(world: World):
    """fails when a source asks with prompts of another tag, or audio precedes its video"""
    prompts = read_prompts(published_prompts())
    template = build_template("vicuna_v0")
    for name, source in world.sources.items():
        tag = shipped()[name]["tag"]
        drawn = [source.record(0, seeds.stream(0, "test", k)).conversation for k in range(3)]
        kinds = [part.modality for part in media_parts(drawn[0])]
        assert (
            kinds == {"ti": ["image"], "tv": ["video"], "ta": ["audio"], "tva": ["video", "audio"]}[tag.split("-")[0]]
        )
        opening = "###Human: Given following " + {
            "ti": "image: <query>.", "tv": "video: <query>.", "ta": "audio: <query>.",
            "tva": "video: <query> and its background audio: <query>.",
        }[tag.split("-")[0]]  # fmt: skip
        for conversation in drawn:
            assert template.render(conversation).startswith(f"{opening}###Human: ")
            if tag in prompts:
                asked = json.loads((world.root / shipped()[name]["annotations"]).read_text())[0].get("question", "")
                assert conversation[0].text in {one.replace("<QUESTION>", asked) for one in prompts[tag]}


def test_the_golden_strings_hold_on_prepared_records(world: World, reference: Path):
    """fails when a record that a script wrote becomes a conversation that differs from the reference's"""
    prompts, template = read_prompts(published_prompts()), build_template("vicuna_v0")
    golden = json.loads((reference / "golden/multis_chatbridge.json").read_text())["strings"]
    compared = set()
    for name, source in world.sources.items():
        record = json.loads((world.root / shipped()[name]["annotations"]).read_text())[0]
        for case in golden:
            if case["task"] != shipped()[name]["tag"]:
                continue
            assert set(case["annotation"]) - {"desc", "caption"} <= set(record)
            prompt = prompts.get(case["task"], [""] * 20)[case["prompt_index"]].replace("<QUESTION>", asked(record))
            draws = (source.record(0, seeds.stream(0, "t", k)).conversation for k in range(300))
            drawn = next(one for one in draws if prompt in ("", one[0].text))
            assert template.render(drawn) in as_the_reference(case["conversation"], prompt, record)
            compared.add(case["task"])
    assert compared == {case["task"] for case in golden} and len(compared) == 11  # of 13 tags


def asked(record: dict[str, Any]) -> str:
    return record.get("question", "")


def as_the_reference(string: str, prompt: str, record: dict[str, Any]) -> list[str]:
    """The golden strings with the text of this record in place of its own, one per answer it may draw."""
    opening = "###Human: " + string.split("###Human: ")[1]
    if "conversations" in record:
        texts = [re.sub(r"\n<(image|video)>", "", turn["value"]) for turn in record["conversations"]]
        rounds = "".join(f"###Human: {q}###Assistant:{a}" for q, a in zip(texts[::2], texts[1::2]))
        return [opening + rounds + ("\n###" if string.endswith("\n###") else "###")]
    answers = record["caption"] if "caption" in record else [record["answer"]]
    return [f"{opening}###Human: {prompt}###Assistant:{answer}\n###" for answer in answers]
