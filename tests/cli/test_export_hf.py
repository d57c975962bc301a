"""`chatbridge export --hf`: a folder that transformers loads without ChatBridge, with the same prompts and answers."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli import export
from chatbridge.common.errors import DataError
from chatbridge.conversation.messages import Media, Message, Text, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.engine import ChatEngine
from tests.helpers.adapter_runs import AdapterWorld

pytest.importorskip("peft")
ADDED = ["<start>", "<end>"]
SHORT = GenerateOptions(max_new_tokens=7)


@pytest.fixture(scope="module")
def world(export_world: AdapterWorld) -> AdapterWorld:
    return export_world


@pytest.fixture(scope="module")
def trained(export_run: Path) -> Path:
    return export_run


@pytest.fixture(scope="module")
def ours(export_engine: ChatEngine) -> ChatEngine:
    return export_engine


@pytest.fixture(scope="module")
def out(world: AdapterWorld, trained: Path) -> Path:
    folder = world.folder / "export_hf"
    assert export.main([str(trained), "--hf", str(folder), "--shard-bytes", "100000"]) == 0
    return folder


@pytest.fixture(scope="module")
def theirs(out: Path) -> Iterator[tuple[Any, Any]]:
    """The model and the processor as transformers loads them; the code is that of the folder."""
    from transformers import AutoModelForMultimodalLM, AutoProcessor, dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(out.parent / "code"))
        patch.syspath_prepend(str(out.parent / "code"))
        model, info = AutoModelForMultimodalLM.from_pretrained(out, trust_remote_code=True, output_loading_info=True)
        assert not any(info.values()), info
        yield model.eval(), AutoProcessor.from_pretrained(out, trust_remote_code=True)


def questions(world: AdapterWorld) -> list[list[dict[str, Any]]]:
    """Conversations as transformers takes them: several media, several turns, text that reads like the format's."""
    files = {kind: str(world.folder / f"{kind}s") for kind in ("image", "video", "audio")}
    image, video = (
        {"type": "image", "path": f"{files['image']}/i0.jpg"},
        {"type": "video", "url": f"{files['video']}/v1.mp4"},
    )
    sound = {"type": "audio", "audio": Path(files["audio"]) / "a2.wav"}
    return [
        [{"role": "user", "content": [image, {"type": "text", "text": "what color is it ?"}]}],
        [{"role": "user", "content": [video, sound, {"type": "text", "text": "describe"}]}],
        [
            {"role": "system", "content": "a circle ."},
            {"role": "user", "content": [image, {**image, "path": f"{files['image']}/i1.jpg"}, "is it red ?"]},
            {"role": "assistant", "content": "blue"},
            {"role": "user", "content": [sound, {"type": "text", "text": "### </s> <image> <start> what is it ?"}]},
        ],
        [{"role": "user", "content": "hello"}],
    ]  # fmt: skip


def typed(messages: list[dict[str, Any]]) -> tuple[Message, ...]:
    """The same conversation for our engine."""

    def part(one: Any) -> Any:
        if isinstance(one, str) or one["type"] == "text":
            return Text(one if isinstance(one, str) else one["text"])
        return Media(one["type"], Path(next(one[key] for key in (one["type"], "path", "url") if key in one)))

    made = []
    for message in messages:
        content = message["content"]
        parts = (Text(content),) if isinstance(content, str) else tuple(map(part, content))
        made.append(Message(message["role"], parts))
    return tuple(made)


def asked(theirs: tuple[Any, Any], messages: Any, **options: Any) -> tuple[Any, list[list[int]], list[str]]:
    """Inputs, ids and texts of the answers."""
    model, processor = theirs
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    made = model.generate(**inputs, **options)
    ids = made[:, inputs["input_ids"].shape[1] :].tolist()
    return inputs, ids, processor.answers(made, inputs)


def same(found: list[int], expected: list[int]) -> bool:
    """Whether an answer of transformers is ours: it has what ended it, and padding, behind it."""
    return found[: len(expected)] == expected


def test_prompts_and_greedy_answers_are_ours(world, ours, theirs):
    """fails when a template, a tokenizer, a preprocessing, an adapter, a row of an added token or the padding of a
    batch is other than in ChatBridge"""
    every = questions(world)
    inputs, ids, texts = asked(theirs, every)
    for row, messages in enumerate(every):
        batch = ours.prompts([typed(messages)])
        own = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        assert own.tolist() == batch.ids[0].tolist()
        answer = ours.model.generate(batch, SHORT, ours.layout.stops)[0]
        assert len(answer) > 1 and same(ids[row], answer), (row, ids[row], answer)
        assert texts[row] == ours.layout.finish(answer) == ours.answer(typed(messages), SHORT).text
    _, alone, _ = asked(theirs, every[2])
    assert alone[0] == ids[2][: len(alone[0])]


def test_logits_are_ours(world, ours, theirs):
    """fails when a tensor or a buffer is another, or a bridge token is at another place"""
    model, processor = theirs
    messages = questions(world)[2]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    batch = ours.prompts([typed(messages)])
    with torch.no_grad():
        expected = ours.model.language.logits(ours.model.language(ours.model.prepared(batch)[0]))
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    named = {name.replace("language.lm.", "language.", 1): value for name, value in ours.model.named_buffers()}
    for name, value in model.named_buffers():  # those that no file holds are computed, or they would be any memory
        assert torch.equal(value, named[name]), name


def test_beams_penalties_and_samples_are_ours(world, ours, theirs):
    """fails when beams, the repetition penalty or a seed give other answers than in ChatBridge"""
    every = questions(world)[:2]
    batch = ours.prompts(list(map(typed, every)))
    own = {"num_beams": 3, "length_penalty": 0.5}, {"repetition_penalty": 1.7}, {"sample": True, "seed": 7, "top_k": 40,
           "top_p": 0.9, "temperature": 0.8}  # fmt: skip
    for options in own:
        expected = ours.model.generate(batch, GenerateOptions(max_new_tokens=8, **options), ours.layout.stops)
        given = {"do_sample" if key == "sample" else key: value for key, value in options.items()}
        _, ids, _ = asked(theirs, every, max_new_tokens=8, **given)
        assert all(map(same, ids, expected)), (options, ids, expected)


def test_a_stop_string_ends_an_answer(ours, theirs, monkeypatch):
    """fails when an answer goes on behind a stop string, or the text has it"""
    model, processor = theirs
    _, ids, _ = asked(theirs, [{"role": "user", "content": "hello"}])
    stop = ours.layout.tokenizer.decode(ids[0][3:5])
    monkeypatch.setattr(model, "config", type(model.config)(**{**model.config.to_dict(), "stops": {"strings": [stop]}}))
    model.config.name_or_path = str(processor.tokenizer.name_or_path)
    model.__dict__.pop("_own_stops", None)
    _, shorter, _ = asked(theirs, [{"role": "user", "content": "hello"}])
    assert 0 < len(shorter[0]) <= 5 < len(ids[0])
    model.__dict__.pop("_own_stops", None)


def test_a_conversation_with_its_answer_has_labels(world, ours, theirs):
    """fails when a fine-tuning in transformers learns other tokens than ours, or its loss is another"""
    model, processor = theirs
    messages = [*questions(world)[0], {"role": "assistant", "content": "red"}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    sequence = ours.layout.training_sequence(typed(messages))
    marked = (inputs["labels"][0] != -100).nonzero()[:, 0] - 1
    assert marked.tolist() == sequence.predict_at
    assert inputs["labels"][0][marked + 1].tolist() == sequence.target
    loss = model(**inputs).loss
    loss.backward()
    assert torch.isfinite(loss) and float(model.bridges["perceiver"].output.weight.grad.abs().max()) > 0
    model.zero_grad()


def test_a_pipeline_answers(world, ours, theirs):
    """fails when transformers' pipeline cannot ask, or its answer has the prompt or the stop string"""
    from transformers import pipeline

    model, processor = theirs
    asking = pipeline("image-text-to-text", model=model, processor=processor)
    found = asking(text=questions(world)[0], max_new_tokens=7)[0]["generated_text"][-1]
    assert found["role"] == "assistant"
    assert found["content"].strip() == ours.answer(typed(questions(world)[0]), SHORT).text


def test_content_in_memory_gives_the_same_inputs(world, theirs):
    """fails when an image, a waveform or frames in memory are read otherwise than files"""
    from PIL import Image

    _, processor = theirs
    path = world.folder / "images/i0.jpg"
    contents = [{"path": str(path)}, {"image": Image.open(path)}, {"image": path.read_bytes()}]
    made = [processor(text="what ?", images=[one.get("image", path)])["pixel_values"] for one in contents]
    assert all(torch.equal(one, made[0]) for one in made)
    wave = torch.rand(4800) - 0.5
    found = processor(text="what ?", audio=[(wave, 16000)])
    again = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio", "audio": wave.numpy()}, {"type": "text", "text": "what ?"}]}],
        tokenize=True, return_dict=True, add_generation_prompt=True,
    )  # fmt: skip
    assert torch.equal(found["input_features"], again["input_features"])


def test_bad_input_is_refused(world, theirs, trained, out, tmp_path):
    """fails when a mistake is ignored, ends in a bare traceback, or leaves a folder behind"""
    model, processor = theirs
    text = {"type": "text", "text": "hello"}
    wrong = {
        "role is one of": [{"role": "tool", "content": "x"}],
        "takes text, image": [{"role": "user", "content": [{"type": "depth", "path": "x"}]}],
        "download the file": [{"role": "user", "content": [{"type": "image", "url": "https://a.b/c.png"}]}],
        "no such file": [{"role": "user", "content": [{"type": "image", "path": "absent.png"}, text]}],
        "not base64": [{"role": "user", "content": [{"type": "image", "base64": "%%%"}]}],
        "has no content": [{"role": "user", "content": [{"type": "image"}]}],
        "tokens, the model's context is": [{"role": "user", "content": "what color is it ? " * 2000}],
        "has at least one": [],
    }
    for said, messages in wrong.items():
        with pytest.raises(ValueError, match=said):
            processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    with pytest.raises(ValueError, match="add_generation_prompt"):
        processor.apply_chat_template([{"role": "user", "content": "x"}], tokenize=True)
    with pytest.raises(ValueError, match="chat_template"):
        processor.apply_chat_template([{"role": "user", "content": "x"}], chat_template="{{ x }}")
    inputs = processor(text="what ?", images=[world.folder / "images/i0.jpg"])
    with pytest.raises(ValueError, match="image: the prompt has 32 placeholders|image: the prompt has"):
        model.generate(inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"])
    with pytest.raises(ValueError, match="without mm_token_type_ids"):
        model.generate(inputs["input_ids"], pixel_values=inputs["pixel_values"])
    for more, said in (
        (["--component", "language"], "leave --component out"),
        (["--layout", "mmgpt"], "leave --layout"),
    ):
        with pytest.raises(DataError, match=said):
            export.main([str(trained), "--hf", str(tmp_path / "never"), *more])
    with pytest.raises(DataError, match="already exists"):
        export.main([str(trained), "--hf", str(out)])
    assert not list(tmp_path.iterdir())


def test_the_folder_is_whole(out):
    """fails when code of the folder needs ChatBridge, or licence, card or shards are absent"""
    files = list(out.glob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.partition(".")[0] == "chatbridge" for name in names), file
    assert len(files) > 50 and len(list(out.glob("model-*.safetensors"))) > 1
    assert "BSD" in (out / "LICENSE").read_text() or "Licen" in (out / "LICENSE").read_text()
    assert "transformers>=" in (out / "requirements.txt").read_text()
    config = json.loads((out / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == config["num_rows"] + len(ADDED)
    assert str(out.parent) not in json.dumps(config) + (out / "processor_config.json").read_text()
    assert json.loads((out / "generation_config.json").read_text())["max_new_tokens"] == 7


@pytest.mark.slow
def test_it_works_where_chatbridge_is_not_installed(world, ours, out, tmp_path):
    """fails when the folder needs ChatBridge, or its README's lines do not run"""
    card = (out / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0].replace('folder = "."', f"folder = {str(out)!r}")
    image = world.folder / "images/i0.jpg"
    script = "import sys\nsys.modules['chatbridge'] = None\n" + code.replace("photo.jpg", str(image))
    env = {"HF_MODULES_CACHE": str(tmp_path / "code"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = ours.answer((user(Media("image", image), "What is this?"),), SHORT)
    assert done.stdout.rstrip("\n") == expected.text
