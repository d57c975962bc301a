"""The stamps run in small: the shipped files of both stages and of the evaluation, over random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

from chatbridge.cli import cache, evaluate, train
from chatbridge.models.loading import read_state
from dataset_prep.stamps import figures, quickstart
from tests.helpers.placeholder_world import write_small_stamps
from tests.helpers.tiny_media import jpeg, wav

ROOT = Path(__file__).parents[3]
SHORT = [
    "run.max_steps=2",
    "run.micro_batch=2",
    "run.schedule.warmup_steps=0",
    "data.num_workers=0",
    "data.group_window=1",
]


def line(number: int, media: list[str], details: dict[str, Any] | None = None) -> str:
    parts: list[dict[str, str]] = [
        {"type": "image" if name[0] == "p" else "audio", "path": f"{name[0]}{number}{name[1:]}"} for name in media
    ]
    content = [*parts, {"type": "text", "text": "What is it?"}]
    answer = {"role": "assistant", "content": f"Thing {number}."}
    record: dict[str, Any] = {"id": str(number), "messages": [{"role": "user", "content": content}, answer]}
    return json.dumps(record | ({"details": details} if details else {}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with small weights and four pictures and sounds."""
    for name in ("configs", "train_configs", "eval_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    data = tmp_path / "data/stamps"
    write_small_stamps(data)
    torch.manual_seed(0)
    ears = data / "weights/whisper_tiny_en"
    transformers.WhisperModel(transformers.WhisperConfig.from_pretrained(ears)).save_pretrained(ears)
    eyes = data / "weights/efficientnet_lite0/model.safetensors"
    eyes.parent.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in timm.create_model("tf_efficientnet_lite0").state_dict().items()}, eyes)
    for number in range(4):
        (data / f"p{number}.jpg").write_bytes(jpeg(red=60 * number))
        (data / f"s{number}.wav").write_bytes(wav(pitch_hz=200.0 * (number + 1)))
    options = {"options": {"A": "Yes.", "B": "No."}, "answer": "A", "kind": "same", "paired": "never"}
    details = options | {"must_name": ["thing"], "group": "animal", "held_out": "recording", "category": "food"}
    media = {"captions": ["p.jpg"], "sounds": ["s.wav"], "talk": ["p.jpg"], "pairs": ["p.jpg", "s.wav"],
             "picture_choices": ["p.jpg"], "sound_choices": ["s.wav"], "pair_choices": ["p.jpg", "s.wav"]}  # fmt: skip
    for name, kinds in media.items():
        for split in ("train", "test"):
            lines = [line(number, kinds, details if split == "test" else None) for number in range(4)]
            (data / f"{name}_{split}.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_both_stages_and_the_evaluation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a stage does not train what it says, or the evaluation or its table cannot read what came before"""
    assert cache.main([quickstart.STAGE2, "--options", "run.init_from=null"]) == 0
    assert train.main(["--cfg-path", quickstart.STAGE1, "--options", *SHORT[:-1]]) == 0
    assert train.main(["--cfg-path", quickstart.STAGE2, "--options", *SHORT]) == 0
    first, second = (
        read_state(here / f"runs/stamps/stage{stage}/checkpoints/step_000002/model.safetensors") for stage in (1, 2)
    )
    assert {name.split(".")[1] for name in first} == {"see", "hear"}
    assert all(not torch.equal(first[name], second[name]) for name in first if name.endswith("output.weight"))
    adapted = {name.split(".")[-4] for name in second if ".lora_" in name}
    assert adapted == {"q_proj", "v_proj"}
    assert evaluate.main(["--cfg-path", quickstart.EVALUATION]) == 0
    capsys.readouterr()
    assert figures.main(["runs/stamps/eval"]) == 0
    table = capsys.readouterr().out
    assert "nats a token" in table and "pairs: same, never paired" in table
    found = json.loads(Path("runs/stamps/eval/figures.json").read_text())["choices"]["pairs: same, never paired"]
    assert found["count"] == 4 and {"without_image", "shuffled_audio"} <= found.keys()
