"""The YAMLs of TextBind's data read what dataset_prep writes, and its stages have the published settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.cli.data.command import main as data_command
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Drawing, Text
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.helpers.mini_textbind import prepare, published
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.stage1_inputs import without_name

ROOT = Path(__file__).parents[2]
SETS = sorted((ROOT / "configs/datasets").glob("textbind*.yaml"))
FIRST = {  # the first round of each set, <image> for an image of the user and {caption} for one that is drawn
    "textbind": ("What is <image> ?", "A cat. Like this: {a red cat} Or {a cat on a sofa}"),
    "textbind_val": ("What is <image> ?", "A cat. Like this: {a red cat} Or {a cat on a sofa}"),
    "textbind_cc_sbu": ("<image>", "Picture number 0"),
    "textbind_cc_sbu_val": ("<image>", "Picture number 55"),
    "textbind_platypus": ("Below is an instruction that describes a task, paired", "3"),
    "textbind_alpaca_gpt4": ("Below is an instruction that describes a task, paired", "3"),
    "textbind_minigpt4": ("<image>\nDescribe this image in detail.", "A street."),
    "textbind_shikra": ("<image>\nWhere is the ball ?", "The ball 0 is left."),
    "textbind_llava": ("What is it?\n<image>", "A plate."),
    "textbind_multi_instruct": ("<image>\nIs there a dog?", "yes"),
}
SIZES = {"platypus": 24_926, "minigpt4": 3_439, "shikra": 7_081, "llava": 157_712, "multi_instruct": 105_745}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the published files, prepared by the commands of the cards."""
    root = tmp_path_factory.mktemp("textbind")
    (root / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch, published(root):
        patch.chdir(root)
        prepare()
        yield root


def node_of(name: str) -> dict[str, Any]:
    """The source of a shipped YAML; of the tars those that exist here."""
    node = load(ROOT / f"configs/datasets/{name}.yaml")[0]["data"]["sources"][name]
    return {**node, "shards": node["shards"].replace("01254", "00001")} if "shards" in node else node


def source_of(name: str) -> Dataset:
    node = node_of(name)
    part: Any = BUILDERS.get(node["name"])
    return part(parse(part.Config, without_name(node)), name)


def shown(part: Any) -> str:
    return part.text if isinstance(part, Text) else f"{{{part.caption}}}" if isinstance(part, Drawing) else "<image>"


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_the_first_sample_of_every_set(prepared: Path, path: Path):
    """fails when a YAML cannot read what its command writes, an image or caption is lost, or another text is asked"""
    source = source_of(path.stem)
    question, answer = (
        "".join(map(shown, message.parts)) for message in source.record(0, np.random.default_rng(3)).conversation[:2]
    )
    asked, answered = FIRST[path.stem]
    assert (asked in question if "cc_sbu" in path.stem else question.startswith(asked)) and answer == answered, question
    assert question.count("<image>") == asked.count("<image>")
    assert source.modalities == ({"image"} if "<image>" in asked else set())


def test_half_of_the_requests_end_with_the_image(prepared: Path):
    """fails when a request of the first stage is missing, or its image is not where the reference has it"""
    source = source_of("textbind_cc_sbu")
    asked = {"".join(map(shown, source.record(0, np.random.default_rng(n)).conversation[0].parts)) for n in range(300)}
    assert len(asked) == 20
    assert sum(text.startswith("<image> ") for text in asked) == sum(text.endswith(" <image>") for text in asked) == 10


def test_every_set_has_its_yaml(prepared: Path):
    """fails when the test above misses a YAML, or a record without its images is kept"""
    assert {path.stem for path in SETS} == set(FIRST)
    source = source_of("textbind")
    assert len(source) == 2 and source.note() == "last questions without an answer, left out: 1"
    assert "404.png" in (prepared / "data/textbind/images.failed.jsonl").read_text()
    assert len(source_of("textbind_minigpt4")) == 1 and len(source_of("textbind_cc_sbu")) == 6


def test_the_published_blend_and_stages():
    """fails when the blend has other sources or shares, or a stage other numbers than the published ones"""
    sources = load(ROOT / "configs/mixtures/textbind_blend.yaml")[0]["data"]["sources"]
    assert sources.keys() == {"textbind", *(f"textbind_{name}" for name in SIZES)}
    assert all(source["weight"] == "size" for source in sources.values())
    stages = [load(ROOT / f"train_configs/textbind_stage{number}.yaml")[0] for number in (1, 2)]
    runs = [stage["run"] for stage in stages]
    assert [run["optimizer"] for run in runs] == [
        {"lr": lr, "betas": [0.9, 0.95], "weight_decay": 0.001} for lr in (1e-4, 1e-5)
    ]
    assert [run["schedule"]["warmup_steps"] for run in runs] == [2000, 100]
    assert {(run["schedule"]["kind"], run["schedule"]["warmup_lr"], run["clip_norm"]) for run in runs} == {
        ("cosine", 0.0, 1.0)
    }
    assert [8 * run["micro_batch"] * run["accumulate"] for run in runs] == [256, 64]
    assert (runs[0]["max_steps"], runs[1]["max_epochs"]) == (78_128, 3)
    assert [stage["data"]["max_tokens"] for stage in stages] == [256, 768]
    assert stages[0]["model"]["trainable"] == ["bridges.qformer.*"]
    assert stages[1]["model"]["trainable"] == ["bridges.qformer.*", "language.*", "added_tokens.*"]
    assert runs[1]["init_from"] == runs[0]["output_dir"] and runs[1]["parallel"] == "shard"


@pytest.mark.slow
def test_data_check_reads_every_set(prepared: Path, capsys: pytest.CaptureFixture[str]):
    """fails when `chatbridge data check` cannot read a sample of a set with its images, or finds a mistake"""
    sources = {path.stem: node_of(path.stem) for path in SETS}
    world = MiniWorld(prepared / "world").experiment(prepared / "run")
    world["data"] = {"sources": sources, "template": "textbind"}
    world["model"] |= {"added_tokens": ["<image>", "<start>", "<end>"]}
    assert data_command(["check", str(write_yaml(prepared / "all.yaml", world)), "--workers", "1", "--full"]) == 0
    out = capsys.readouterr().out
    assert all(f"ok  {path.stem} " in out for path in SETS), out
