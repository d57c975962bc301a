"""docs/real_parts.md on small random stand-ins in the real formats: folders as transformers writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import transformers

from chatbridge.cli import evaluate, train
from chatbridge.models.loading import read_state
from tests.helpers.mini_world import write_language_model
from tests.helpers.tiny_media import jpeg

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "real_parts.md").read_text(encoding="utf-8")


@pytest.fixture
def here(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with every file named on the page."""
    write_language_model(tmp_path / "weights/SmolLM2-135M-Instruct")
    (tmp_path / "weights/SmolLM2-135M-Instruct/chat_template.jinja").write_text(CHATML)
    vision = tmp_path / "weights/siglip-base-patch16-224"
    transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(image_size=224, patch_size=16, **VISION)
    ).save_pretrained(vision)
    (vision / "preprocessor_config.json").write_text(json.dumps({
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": 224, "width": 224},
    }))  # fmt: skip
    (tmp_path / "photos/images").mkdir(parents=True)
    (tmp_path / "photos/images/pan.jpg").write_bytes(jpeg(side=40))
    (record,) = re.findall(r"^```json\n(.*)\n```", page, re.MULTILINE)
    for name in ("train", "test"):
        (tmp_path / f"photos/{name}.jsonl").write_text(record + "\n")
    for name, text in blocks(page).items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str) -> dict[str, str]:
    """Every YAML on the page: file name -> content."""
    found = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(found) == page.count("```yaml"), "a YAML block without its file name is not tried"
    return dict(found)


def test_every_yaml_of_the_page_is_accepted(here: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a setting of the page is refused, or its numbers of tokens are wrong"""
    assert set(blocks(page)) == {"photos_model.yaml", "photos.yaml", "photos_eval.yaml"}
    assert train.main(["--cfg-path", "photos.yaml", "--check"]) == 0
    assert "image: 49 tokens per item" in capsys.readouterr().out
    assert train.main(["--cfg-path", "photos.yaml", "--check", "--options", "model.bridges.see.pool=null"]) == 0
    assert "image: 196 tokens per item" in capsys.readouterr().out, "the page names the number of features"


def test_the_page_trains_and_evaluates(here: Path) -> None:
    """fails when the run of the page cannot train, or its evaluation does not find the checkpoint"""
    (here / "photos/train.jsonl").write_text("".join(
        json.dumps({**json.loads((here / "photos/test.jsonl").read_text()), "id": str(n)}) + "\n" for n in range(8)
    ))  # fmt: skip
    small = [
        "--options",
        "run.max_steps=2",
        "run.micro_batch=2",
        "run.schedule.warmup_steps=0",
        "data.num_workers=0",
        "run.device=cpu",
    ]
    assert train.main(["--cfg-path", "photos.yaml", *small]) == 0
    trained = read_state(here / "runs/photos/checkpoints/step_000002/model.safetensors")
    assert {name.split(".")[1] for name in trained} == {"see"}
    assert evaluate.main(["--cfg-path", "photos_eval.yaml", "--check"]) == 0
