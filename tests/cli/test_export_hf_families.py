"""`chatbridge export --hf` over encoders, language models and conversation formats, and at full size without memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli.export_hf import hf_part
from chatbridge.cli.export_hf_code import code_files
from chatbridge.cli.export_hf_settings import media_settings
from chatbridge.cli.export_source import Source
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Message, Text, assistant, user
from chatbridge.experiment.build import build_model, layout_of
from chatbridge.experiment.open import open_model_file
from chatbridge.experiment.opened import with_known_files
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.language import GenerateOptions
from chatbridge.models.tokenizer_loading import read_tokenizer
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.transformers_model.configuration_chatbridge import ChatBridgeConfig
from chatbridge.serve.transformers_model.modeling_chatbridge import ChatBridgeForConditionalGeneration
from tests.helpers.gated_models import gated
from tests.helpers.mini_world import write_language_model
from tests.helpers.tiny_languages import ATTENTION, NO_HEAD_DIM, REREAD, RUNNING, SIZES
from tests.helpers.tiny_media import jpeg, mp4, wav
from tests.helpers.tiny_models import IMAGEBIND
from tests.helpers.tiny_towers import AST, CLAP, CLIP, CONVNEXT, DINOV2, SIGLIP, TIMM_CONVNET, TIMM_VIT, WHISPER

ENCODERS = {
    "clip": (CLIP, "image"), "siglip": (SIGLIP, "image"), "dinov2": (DINOV2, "image"), "convnext": (CONVNEXT, "video"),
    "timm vit": (TIMM_VIT, "image"), "timm convnet": (TIMM_CONVNET, "image"), "ast": (AST, "audio"),
    "whisper": (WHISPER, "audio"), "clap": (CLAP, "audio"), "imagebind": (IMAGEBIND, "image"),
    "imagebind sound": (IMAGEBIND, "audio"), "imagebind video": (IMAGEBIND, "video"),
}  # fmt: skip
PIECES = {("imagebind", "video"): {"pieces": {"count": 3, "merge": "mean_features"}}}
INPUTS = {"image": "images", "video": "videos", "audio": "audio"}
MODELS = Path(__file__).parents[2] / "configs" / "models"
INLINE = ("chatbridge_vicuna13b", "minigpt4_vicuna7b", "minigpt4_llama2", "chatbind_vicuna7b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tokenizer, a file of each modality, and a place for the code of the exported folders."""
    from transformers import dynamic_module_utils

    root = tmp_path_factory.mktemp("families")
    write_language_model(root / "lm")
    for modality, content in (("image", jpeg(200, side=40)), ("video", mp4(num_frames=4)), ("audio", wav(400.0, 0.5))):
        (root / modality).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(root / "code"))
        patch.syspath_prepend(str(root / "code"))
        yield root


def source_of(
    folder: Path, encoder: dict[str, Any], modality: str, family: str = "llama", added: Sequence[str] = (),
    **changes: Any,
) -> Source:  # fmt: skip
    """A checkpoint's content for one encoder and a family of language models, with random weights."""
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim" or family not in NO_HEAD_DIM}
    own = {**ATTENTION, **RUNNING, **REREAD}[family]
    architecture = {"model_type": family, **sizes, **own, "vocab_size": 400, "max_position_embeddings": 2048}
    language = {"name": "causal_lm", "architecture": architecture, "tokenizer": str(folder / "lm"), **changes}
    mapping = {
        "encoders": {"e": encoder}, "bridges": {"b": {"name": "linear"}}, "language": language,
        "routes": {modality: {"encoder": "e", "bridge": "b", **PIECES.get((encoder["name"], modality), {})}},
        "added_tokens": list(added),
    }  # fmt: skip
    torch.manual_seed(0)
    model = ChatModel(parse(ModelConfig, mapping)).eval()
    with torch.no_grad():  # livelier than initial values, so that answers differ
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    template = {"name": language.get("template", "vicuna_v0")}
    return Source(model, {}, {}, {"template": template}, None)


def exported(source: Source, out: Path) -> tuple[Any, Any]:
    """The model and the processor of the folder, as transformers loads them."""
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    hf_part(source, out / "absent").write(out, 10**9)
    model, info = AutoModelForMultimodalLM.from_pretrained(out, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values()), info
    own = {name.replace("language.lm.", "language.", 1): value for name, value in source.model.named_buffers()}
    assert all(torch.equal(value, own[name]) for name, value in model.named_buffers())
    return model.eval(), AutoProcessor.from_pretrained(out, trust_remote_code=True)


def engine_of(source: Source, template: str = "vicuna_v0") -> ChatEngine:
    tokenizer = read_tokenizer(source.model.language, source.model.config.added_tokens)
    return ChatEngine(source.model, layout_of(source.model, tokenizer, template, {}))


def check_answers(source: Source, model: Any, processor: Any, modality: str, path: Path) -> None:
    """Ids of the prompt, tokens of the media, greedy answer and beams are equal."""
    engine = engine_of(source)
    question = (Message("user", (Media(modality, path), Text("what color is it ?"))),)
    inputs = processor(text="what color is it ?", **{INPUTS[modality]: [path]})
    batch = engine.prompts([question])
    assert inputs["input_ids"].tolist() == batch.ids.tolist()
    for options in ({"max_new_tokens": 12}, {"max_new_tokens": 6, "num_beams": 3}):
        expected = source.model.generate(batch, GenerateOptions(**options), engine.layout.stops)[0]
        found = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()
        assert len(expected) > 1 and found[: len(expected)] == expected, (options, expected, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_answer_alike(name: str, folder: Path, tmp_path: Path) -> None:
    """fails when an encoder's sizes or preprocessing are lost with its files, its buffers are not filled, it cannot be
    loaded in bf16, or a folder that transformers saves again is another model"""
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    encoder, modality = ENCODERS[name]
    source = source_of(folder, encoder, modality)
    model, processor = exported(source, tmp_path / "out")
    check_answers(source, model, processor, modality, folder / modality)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    check_answers(
        source, again, AutoProcessor.from_pretrained(tmp_path / "again", trust_remote_code=True), modality,
        folder / modality,
    )  # fmt: skip
    half = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out", trust_remote_code=True, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    inputs = processor(text="what ?", **{INPUTS[modality]: [folder / modality]})
    assert half.eval().generate(**inputs, max_new_tokens=3).shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3", "falcon", "mamba", "jamba"])
def test_language_models_answer_alike(family: str, folder: Path, tmp_path: Path) -> None:
    """fails when tied embeddings, scaled embeddings, windows or recurrent states give other answers, or padding before
    a recurrent state is taken for a prompt"""
    source = source_of(folder, CLIP, "image", family)
    model, processor = exported(source, tmp_path / "out")
    check_answers(source, model, processor, "image", folder / "image")
    two = processor(text=["what ?", "what color is it ?"])
    if family in RUNNING:
        with pytest.raises(ValueError, match="one by one"):
            model.generate(**two)
    else:
        assert len(model.generate(**two, max_new_tokens=2)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "template", ["caption", "chatbind_v0", "chatbind_v1", "hf_chat", "minigpt4_vicuna0", "minigpt4_llama2", "vicuna_v0"]
)
def test_conversation_formats_have_the_same_prompts(template: str, folder: Path, tmp_path: Path) -> None:
    """fails when a format, its stop strings or its settings are lost"""
    changes: dict[str, Any] = {"template": template}
    if template == "hf_chat":
        changes["chat_template"] = folder / "chat.jinja"
        changes["chat_template"].write_text(
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
    added = ["<im_patch>", "<im_start>", "<im_end>"] if template.startswith("chatbind") else []
    source = source_of(folder, CLIP, "image", added=added, **changes)
    strings = {"chat_template": changes["chat_template"].read_text()} if template == "hf_chat" else {}
    source = Source(source.model, {}, {}, {"template": {"name": template, **strings}}, None)
    model, processor = exported(source, tmp_path / "out")
    engine = engine_of(source, template)
    item = {"type": "image", "path": str(folder / "image")}
    asked = [{"role": "user", "content": [item, {"type": "text", "text": "what <image> is ### it ?"}]}]
    inputs = processor.apply_chat_template(asked, tokenize=True, return_dict=True, add_generation_prompt=True)
    question = user(Media("image", folder / "image"), "what <image> is ### it ?")
    batch = engine.prompts([(question,)])
    assert inputs["input_ids"].tolist() == batch.ids.tolist()
    assert processor.apply_chat_template(asked, add_generation_prompt=True).count("<image>") == 2
    if template != "caption":
        longer = [*asked, {"role": "assistant", "content": "red"}, {"role": "user", "content": "is it ?"}]
        inputs = processor.apply_chat_template(longer, tokenize=True, add_generation_prompt=True)
        ids = engine.layout.prompt((question, assistant("red"), user("is it ?"))).ids
        assert inputs[0].tolist() == ids
    stops = engine.layout.stops
    assert model.config.stops == {"ids": [list(ids) for ids in stops.ids], "strings": list(stops.strings)}


def test_a_folders_preprocessing_is_written_down(tmp_path: Path) -> None:
    """fails when what a preprocessor_config.json sets (crop, filter, statistics) is lost with the folder"""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {key: value for key, value in CLIP["architecture"].items() if key != "model_type"}
    CLIPVisionModel(CLIPVisionConfig(**sizes)).save_pretrained(tmp_path)
    content = {"do_center_crop": True, "crop_size": 28, "size": {"shortest_edge": 32}, "resample": 2,
               "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 0.01}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    mapping = {
        "encoders": {"e": {"name": "hf_vision", "weights": str(tmp_path), "drop_first": 1}},
        "bridges": {"b": {"name": "linear"}}, "routes": {"image": {"encoder": "e", "bridge": "b"}},
        "language": {"name": "causal_lm", "architecture": {"model_type": "llama", **SIZES}},
    }  # fmt: skip
    model = ChatModel(parse(ModelConfig, mapping))
    settings = media_settings(Source(model, {}, {}, {}, None))
    assert settings["encoders"]["e"]["weights"] is None and str(tmp_path) not in json.dumps(settings)
    (tmp_path / "preprocessor_config.json").unlink()
    own = settings["encoders"]["e"] | {"weights": None}
    again = ChatModel(parse(ModelConfig, {**mapping, "encoders": {"e": own}}))
    processor = again.processors(False)["image"]
    assert (processor.size, processor.edge, processor.resample) == (28, 32, "bilinear")
    assert (list(processor.statistics.mean), processor.statistics.scale) == (content["image_mean"], 0.01)


def test_what_transformers_cannot_run_is_refused(folder: Path, tmp_path: Path) -> None:
    """fails when a model is exported whose answers transformers would get wrong, or a refusal has no next step"""
    gates = Source(gated(), {}, {}, {"template": {"name": "mmgpt"}}, None)
    with pytest.raises(ValueError, match="fusion: inline.*--layout mmgpt"):
        hf_part(gates, tmp_path / "absent")
    draws = source_of(folder, CLIP, "image", added=["<image>", "<start>", "<end>"])
    draws = Source(draws.model, {}, {}, {"template": {"name": "textbind"}}, None)
    with pytest.raises(ValueError, match="draws images.*chatbridge serve"):
        hf_part(draws, tmp_path / "absent")
    with pytest.raises(ValueError, match="a cache of its own; rwkv"):
        hf_part(source_of(folder, CLIP, "image", "rwkv"), tmp_path / "absent")
    with pytest.raises(ValueError, match="my_lab.encoders.mine: the code of a plugin"):
        code_files(["my_lab.encoders.mine"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", INLINE)
def test_full_size_without_memory(name: str) -> None:
    """fails when a model of configs/models has other names or shapes in a folder of transformers"""
    opened = open_model_file(MODELS / f"{name}.yaml")
    settings, _ = with_known_files(opened.node("model"))
    model = build_model(parse(ModelConfig, settings, opened.origins, "model"), on_meta=True).model
    media = media_settings(Source(model, {}, {}, {}, None))
    language: Any = model.language
    config = ChatBridgeConfig(media=media, text_config=language.lm.config.to_dict())
    with torch.device("meta"):
        twin = ChatBridgeForConditionalGeneration(config)
    found = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    expected = {key.replace("language.lm.", "language.", 1): tuple(value.shape)
                for key, value in model.state_dict().items() if not key.startswith("added_tokens.")}  # fmt: skip
    assert found == expected
