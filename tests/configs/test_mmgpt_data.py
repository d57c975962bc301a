"""The YAMLs of Multimodal-GPT's data sets read what dataset_prep writes from the published files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chatbridge.cli.data.command import main as data_command
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Text
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.helpers.mini_mmgpt import prepare, write_raw
from tests.helpers.mini_world import write_yaml
from tests.helpers.stage1_inputs import without_name
from tests.helpers.tiny_media import write_json

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
