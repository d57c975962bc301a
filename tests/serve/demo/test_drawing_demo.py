"""The demo with a diffusion pipeline, tiny and random, from YAML to the page. Importing diffusers takes seconds."""

from __future__ import annotations

import os
import time

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from chatbridge.common.errors import ConfigError
from chatbridge.conversation.messages import Drawing
from chatbridge.experiment.build import plan_chat
from chatbridge.experiment.open import open_chat
from chatbridge.models.drawing.artist import Artist, drawing_seed
from chatbridge.models.generators.diffusion import Diffusion
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.demo.gradio_app import build_app
from chatbridge.serve.demo.launch import launch
from chatbridge.serve.engine import ChatEngine
from tests.helpers.serve_parts import ChatWorld
from tests.helpers.slow_generator import SlowGenerator, dictate
from tests.helpers.tiny_pipelines import SIDE, tiny_sdxl
from tests.helpers.toy_drawing import with_toy_lab

pytestmark = pytest.mark.slow
gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module", autouse=True)
def toy_lab() -> Iterator[str]:
    yield from with_toy_lab()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    base, refiner = tiny_sdxl(folder / "sdxl")
    world = ChatWorld(folder)
    drawn = {"name": "diffusion", "weights": str(base), "refiner": str(refiner), "steps": 5}
    model = world.world.model() | {"generator": drawn}
    evaluation = {"template": "sketch", "chat": {"max_images": 2}, "generation": {"max_new_tokens": 60, "seed": 3}}
    return world.write("draw.yaml", plugins=["toy_lab"], model=model, evaluation=evaluation)


@pytest.fixture(scope="module")
def engine(config: Path) -> ChatEngine:
    return ChatEngine.from_config(config)


def test_what_would_be_loaded_is_shown_without_loading(config):
    """fails when --check does not name the pipelines, or a fault of them waits for the first image"""
    plan = plan_chat(open_chat(config).config)
    assert "drawn by diffusion: StableDiffusionXLPipeline of" in plan and "refined by" in plan and "5 steps" in plan
    with pytest.raises(ConfigError, match="cannot continue the images"):
        plan_chat(open_chat(config, ["model.generator.refiner=${model.generator.weights}"]).config)


def test_an_answer_has_the_image_of_its_caption_and_seed(engine, monkeypatch):
    """fails when a seed of an answer does not decide its image, or the weights are read before one is asked for"""
    generator = engine.generator
    assert isinstance(generator, Diffusion)
    dictate(engine, monkeypatch, "so {a cat} .\n")
    parts = engine.reply_parts("draw", GenerateOptions(max_new_tokens=40, seed=3))
    (drawing,) = (part for part in parts if isinstance(part, Drawing))
    again = Diffusion(generator.config)
    again.load(torch.device("cpu"), torch.float32)
    assert torch.equal(drawing.ref, again.render(["a cat"], [drawing_seed(3, 0)])[0])
    assert drawing.ref.shape == (3, SIDE, SIDE) and again._base is not None


def test_the_page_shows_images_and_continues_from_them(engine, monkeypatch):
    """fails when a browser gets no image or no caption, the next turn fails, or a limit of the chat has no effect"""
    app = build_app(engine, [])
    _, address, _ = launch(app, block=False)
    try:
        client: Any = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 120})
        dictate(engine, monkeypatch, "so {a cat} and {a fox} .\n")
        chat = client.predict({"text": "draw", "files": []}, 0, 60, api_name="/chat")[1]
        content = [part for message in chat if message["role"] == "assistant" for part in message["content"]]
        files = [part["file"] for part in content if part["type"] == "file"]
        texts = [part["text"].strip() for part in content if part["type"] == "text"]
        assert texts == ["so", "Drawn: a cat", "and", "Drawn: a fox", "."]
        for file in files:
            with Image.open(file) as image:
                assert image.size == (SIDE, SIDE)
        assert len(files) == 2
        dictate(engine, monkeypatch, "a cat .\n")
        chat = client.predict({"text": "what is it ?", "files": []}, 0, 20, api_name="/chat")[1]
        assert chat[-1]["content"][0]["text"].strip() == "a cat ."
        dictate(engine, monkeypatch, "{a cow} .\n")
        client.predict({"text": "another", "files": []}, 0, 20, api_name="/chat")
        chat = client.predict({"text": "one more", "files": []}, 0, 20, api_name="/chat")[1]
        assert "3 images, more than the 2 of evaluation.chat.max_images" in chat[-1]["content"][0]["text"]
    finally:
        app.close()


def test_the_stop_button_ends_a_rendering(engine, monkeypatch):
    """fails when the generator works on to the end of an image that nobody waits for, or the next question hangs"""
    slow = SlowGenerator()
    slow.num_steps = 1000
    monkeypatch.setattr(engine, "artist", Artist(slow))
    app = build_app(engine, [])
    _, address, _ = launch(app, block=False)
    try:
        client: Any = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 120})
        dictate(engine, monkeypatch, "{a cat} .\n")
        job = client.submit({"text": "draw", "files": []}, 0, 60, api_name="/chat")
        assert slow.begun.wait(30)
        slow.allow(3)
        while not (job.outputs() and "Drawing: a cat" in str(job.outputs()[-1])):
            time.sleep(0.02)
        job.cancel()
        wait_until(lambda: slow.is_over or slow.allow(1), 10)
        assert slow.num_done < 100
        dictate(engine, monkeypatch, "so .\n")
        chat = client.predict({"text": "and ?", "files": []}, 0, 20, api_name="/chat")[1]
        assert chat[-1]["content"][0]["text"].strip() == "so ."
    finally:
        slow.allow(1000)
        app.close()


def wait_until(is_reached: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < end
        time.sleep(0.02)
