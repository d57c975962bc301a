"""The YAMLs of Multimodal-GPT's data sets read what dataset_prep writes, and its run trains on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chatbridge.cli import train
from chatbridge.cli.data.command import main as data_command
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Text
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.helpers.gated_models import GATED, RESAMPLER
from tests.helpers.mini_mmgpt import prepare, write_raw
from tests.helpers.mini_world import write_language_model, write_yaml
from tests.helpers.stage1_inputs import without_name
from tests.helpers.tiny_media import write_json
from tests.helpers.tiny_models import VISION

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "configs/datasets").glob("mmgpt_*.yaml"))
LANGUAGE = ("mmgpt_dolly", "mmgpt_alpaca_gpt4", "mmgpt_baize")
IMAGE = "<image>"
OPTIONS = "\n\n### Input:\n"
FIRST = {  # the first sample of each set: what is asked, without a drawn request and options, and the answer
    "mmgpt_llava_detail": [("<image>Describe the scene.", "A wet street.\n\nIt shines.")],
    "mmgpt_llava_reasoning": [("<image>Why is\nit wet?", "It rained.")],
    "mmgpt_llava_dial": [("<image>What is this?", "A red bus."), ("How many doors?", "Two doors.")],
    "mmgpt_coco_dial": [("<image>What is this?", "A red bus."), ("How many doors?", "Two doors.")],
    "mmgpt_vqa": [("<image>What is on the plate?", "food")],
    "mmgpt_okvqa": [("<image>What is on the plate?", "food")],
    "mmgpt_aokvqa": [("<image>What is it?", "The answer is bus. Because It is long. It has a number. It is red.")],
    "mmgpt_coco_caption": [("<image>", "Sentence ")],
    "mmgpt_minigpt4": [("<image>", "A long text about picture 2.")],
    "mmgpt_ocr_vqa": [("<image>W", ("Jane Roe", "The Car"))],
    "mmgpt_text_ocr": [("<image>what is the plate?", "abc")],
    "mmgpt_gqa": [("<image>Is the sky dark?", "Yes, the sky is dark.")],
    "mmgpt_clevr": [("<image>Are there more big green things than large purple shiny cubes?", "yes")],
    "mmgpt_nlvrv1": [("<image>There is a black square.", "true")],
    "mmgpt_nlvrv2": [("<image>The ", "true")],
    "mmgpt_snlive": [("<image>A dog is outside.", "entailment")],
    "mmgpt_dolly": [("What is a prism?", "An optical element.")],
    "mmgpt_alpaca_gpt4": [(f"Identify the odd one out.{OPTIONS}Twitter, Telegram", "Telegram")],
    "mmgpt_baize": [("How do dogs sleep?", "They lie\ndown."), ("And cats?", "Cats curl up.")],
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the published files, prepared by the commands of the cards."""
    root = tmp_path_factory.mktemp("mmgpt")
    (root / "configs").symlink_to(ROOT / "configs")
    write_raw(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare()
        mixed = (root / "data/llava/llava_conversation_58k.json").read_bytes()
        (root / "data/llava/llava_instruct_80k.json").write_bytes(mixed)
        yield root


def source_of(path: Path) -> Dataset:
    """The source of a shipped YAML, with its paths as they are."""
    node = load(path)[0]["data"]["sources"][path.stem]
    part = BUILDERS.get(node["name"])
    return part(parse(part.Config, without_name(node)), path.stem)


def rounds(source: Dataset, seed: int) -> list[tuple[str, str]]:
    """(question with <image> for each image, answer) of every round of the first sample."""
    messages = source.record(0, np.random.default_rng(seed)).conversation
    texts = ["".join(part.text if isinstance(part, Text) else IMAGE for part in one.parts) for one in messages]
    return list(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_the_first_sample_of_every_set(prepared: Path, path: Path):
    """fails when a YAML cannot read what its command writes, loses the image, or another text is asked or answered"""
    source = source_of(path)
    assert source.modalities == frozenset(() if path.stem in LANGUAGE else ("image",))
    for seed in range(6):
        found = rounds(source, seed)
        assert len(found) == len(FIRST[path.stem])
        for (question, answer), (asked, answered) in zip(found, FIRST[path.stem]):
            assert question.startswith(asked) and question.count(IMAGE) == asked.count(IMAGE), question
            assert answer.startswith(answered), answer


@pytest.mark.parametrize(
    ("name", "listed"),
    [("vqa", ("food, fruit", "fruit, food")), ("nlvrv1", ("true, false",)),
     ("snlive", ("entailment, neutral, contradiction",))],
)  # fmt: skip
def test_half_of_the_draws_list_options(prepared: Path, name: str, listed: tuple[str, ...]):
    """fails when options are never or always listed, under another header, or others than the possible answers"""
    source = source_of(ROOT / f"configs/datasets/mmgpt_{name}.yaml")
    questions = [rounds(source, seed)[0][0] for seed in range(60)]
    options = [question.split(OPTIONS)[1] for question in questions if OPTIONS in question]
    assert set(options) <= set(listed) and 15 < len(options) < 45


@pytest.mark.slow
def test_data_check_reads_every_set(prepared: Path, capsys: pytest.CaptureFixture[str]):
    """fails when `chatbridge data check` cannot read a sample of a set with its image, or finds a mistake"""
    content = {"base": [str(path) for path in CARDS], "data": {"template": "mmgpt"}}
    assert data_command(["check", str(write_yaml(prepared / "all.yaml", content)), "--workers", "1", "--full"]) == 0
    out = capsys.readouterr().out
    assert all(f"ok  {path.stem} " in out for path in CARDS) and "41 samples, 41 read, all usable" in out


@pytest.mark.slow
def test_data_check_names_a_broken_set(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a list of another layout or a missing image is not reported with its source and place"""
    other = write_json(tmp_path / "other.json", [{"image": "a.jpg", "question": "Why?", "answer": ["so"]}])
    gone = write_json(tmp_path / "gone.json", [{"filename": "gone.jpg", "questions": ["Why?"], "answers": ["So."]}])
    chosen = [ROOT / f"configs/datasets/mmgpt_{name}.yaml" for name in ("clevr", "ocr_vqa")]
    sources = {"mmgpt_clevr": {"annotations": str(other)}, "mmgpt_ocr_vqa": {"annotations": str(gone)}}
    content = {"base": list(map(str, chosen)), "data": {"template": "mmgpt", "sources": sources}}
    assert data_command(["check", str(write_yaml(prepared / "two.yaml", content)), "--workers", "1"]) == 2
    found = capsys.readouterr()
    assert "other.json: expected 'questions', found 'a list'" in found.err + found.out
    assert "gone.jpg" in found.out


def test_every_set_has_its_yaml():
    """fails when a type of the reference has no YAML, or the test above misses one"""
    assert {path.stem for path in CARDS} == set(FIRST) and len(CARDS) == 19


def test_the_published_mix():
    """fails when the mix or the run has other sets, sizes, shares or numbers than the published ones"""
    data = load(ROOT / "configs/mixtures/mmgpt.yaml")[0]["data"]
    assert (data["mix"], data["epoch_stream"]) == ("joint", "visual")
    assert data["streams"] == {"visual": {"weight": 1.0}, "language": {"weight": 1.0}}
    visual = ("llava_detail", "llava_reasoning", "llava_dial", "aokvqa", "minigpt4", "coco_caption", "ocr_vqa")
    streams = {name: one["stream"] for name, one in data["sources"].items()}
    assert streams == {f"mmgpt_{one}": "visual" for one in visual} | dict.fromkeys(LANGUAGE, "language")
    assert {name: one["limit"] for name, one in data["sources"].items() if "limit" in one} == {
        "mmgpt_aokvqa": 5000, "mmgpt_coco_caption": 512, "mmgpt_ocr_vqa": 512
    }  # fmt: skip
    assert {one["weight"] for one in data["sources"].values()} == {"size"}
    run = load(ROOT / "train_configs/mmgpt.yaml")[0]["run"]
    assert (run["max_epochs"], run["micro_batch"], run["accumulate"], run["clip_norm"]) == (1, 1, 16, 1.0)
    assert (run["optimizer"]["lr"], run["optimizer"]["weight_decay"]) == (1e-5, 0.0)
    assert run["optimizer"]["groups"] == [{"match": ["fusion.*"], "weight_decay": 0.1}]
    assert (run["schedule"]["kind"], run["schedule"]["warmup_steps"]) == ("cosine", 100)


@pytest.mark.slow
def test_the_published_run_trains_a_small_model(prepared: Path):
    """fails when the shipped run cannot be trained on what the commands write, or a stream is missing in a step"""
    write_language_model(prepared / "lm")
    model = {
        "encoders": {"vision": VISION},
        "bridges": {"resampler": RESAMPLER},
        "language": {"name": "causal_lm", "weights": "lm", "template": "mmgpt"},
        "fusion": {**GATED, "media": "next", "media_width": None},
        "added_tokens": ["<|endofchunk|>", "<image>", "<PAD>"],
        "routes": {"image": {"encoder": "vision", "bridge": "resampler"}},
        "adapters": load(ROOT / "configs/models/mmgpt_llama7b.yaml")[0]["model"]["adapters"],
    }
    shipped = load(ROOT / "train_configs/mmgpt.yaml")[0]["run"]
    run = {**shipped, "output_dir": "run", "max_epochs": None, "max_steps": 3, "accumulate": 2, "log_every": 1,
           "schedule": {**shipped["schedule"], "warmup_steps": 1}}  # fmt: skip
    content = {"base": ["configs/mixtures/mmgpt.yaml"], "model": model, "data": {"num_workers": 0}, "run": run}
    assert train.main(["--cfg-path", str(write_yaml(prepared / "run.yaml", content))]) == 0
    steps = [json.loads(line) for line in (prepared / "run/metrics.jsonl").read_text().splitlines()]
    assert [step["per_stream"].keys() for step in steps] == [{"visual", "language"}] * 3
    for step in steps:
        assert step["samples"] == 4 and step["loss"] == pytest.approx(sum(step["per_stream"].values()), rel=1e-6)
        assert 0 < step["loss"] < 20 and step["failures"] == 0
