"""TextBind's generation loop, step by step: what is fed, at which position, onto how long a cache; and its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing
from chatbridge.conversation.templates import build_template
from chatbridge.datasets.formats.textbind_results import content_of
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import Artist, Drawn, start_drawing
from chatbridge.models.language import GenerateOptions
from chatbridge.tasks.drawn_answers import answer_of
from tests.helpers.drawn_rows import Numbered, encoder_input, values
from tests.helpers.tiny_models import LANGUAGE, PERCEIVER, tiny_model
from tests.parity.golden import Check
from tests.parity.textbind import SpecialWords

ROUTES = {"image": {"encoder": "vision", "bridge": "perceiver"}}
LINES = "a caption with a line break is a drawing like any other: the reference renders it and shows its text as well"
SLOTS = "`<image>` that a model writes as text is left out: it belongs to no image"


@dataclass
class Trace:
    """Records the forward calls of a language model, whose next tokens are given."""

    model: ChatModel
    images: list[Tensor]  # values of the images in the order of the reference's numbers
    script: list[int]
    steps: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Trace:
        language, vocabulary = self.model.language, self.model.language.num_embeddings or 0
        before = language.register_forward_pre_hook(self._before, with_kwargs=True)
        after = language.register_forward_hook(self._after, with_kwargs=True)
        self._remove = (before.remove, after.remove)

        def logits(hidden: Tensor) -> Tensor:
            self.steps[-1]["next_token"] = new = self.script[len(self.steps) - 1]
            return torch.nn.functional.one_hot(torch.full((len(hidden),), new), vocabulary).float()

        self._logits, language.logits = language.logits, logits  # pyright: ignore
        return self

    def __exit__(self, *error: object) -> None:
        self.model.language.logits = self._logits  # pyright: ignore
        for remove in self._remove:
            remove()

    def _before(self, module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        embeds, positions = args[0], args[1]
        step = {"cache_length_before": kwargs["cache"].length, "fed": self._names(embeds[0])}
        self.steps.append({**step, "first_position": int(positions[0, 0])})

    def _after(self, module: Any, args: Sequence[Any], kwargs: Mapping[str, Any], states: Tensor) -> None:
        self.steps[-1]["cache_after_length"] = kwargs["cache"].length

    def _names(self, embeds: Tensor) -> list[Any]:
        """float[n, D] -> the id, or the slot of an image, that has each embedding."""
        with torch.no_grad():
            ids = torch.arange(self.model.language.num_embeddings or 0)
            table = [(int(number), one) for number, one in zip(ids, self.model.language.embed(ids), strict=True)]
            for number, image in enumerate(self.images, 1):
                tokens = self.model.media_tokens({"image": image[None]})["image"][0]
                table += [(f"image{number}.{slot}", one) for slot, one in enumerate(tokens)]
        return [next(name for name, one in table if torch.allclose(one, found, atol=1e-6)) for found in embeds]


def generation(check: Check) -> None:
    """The traces of the loop, and the texts of answers."""
    about = check.golden.about["tokenizer"]
    for case in check.golden.about["cases"]:
        _loop(check, case, SpecialWords(about["words"], about["specials"], pad_id=0))
    for case in check.golden.about["postprocess"]:
        _text(check, case, about)


def _loop(check: Check, case: Mapping[str, Any], tokenizer: SpecialWords) -> None:
    model = _model(tokenizer.vocab_size, case["num_query_tokens"])
    layout = _layout(model, tokenizer)
    prompt = _prompt(case)
    given = [values(("image", seed)) for seed in range(len(prompt.media_slots.get("image", ())))]
    shown = [encoder_input(Numbered().render([caption], [0])[0]) for caption in case["image_generator_prompts"]]
    generator = Numbered()
    options = GenerateOptions(max_new_tokens=case["max_output_length"], seed=0)
    with Trace(model, [*given, *shown], case["scripted_next_tokens"]) as trace:
        artist = Artist(generator if case["generate_image"] else None)
        growing = start_drawing(model, layout, prompt, options, artist, encoder_input)
        while not growing.is_done:
            growing.step()
    check.equal(f"{case['name']}: steps", trace.steps, [_in_order(step) for step in case["steps"]])
    chosen = growing.decoding.chosen[0]  # pyright: ignore
    check.equal(f"{case['name']}: sequences", [*case["prompt_ids"], *chosen], case["sequences"])
    asked = [caption for captions in generator.rendered for caption in captions]
    check.equal(f"{case['name']}: prompts", asked, case["image_generator_prompts"])
    drawn = [one for one in growing.drawn[0] if one.image is not None]
    check.equal(f"{case['name']}: captions", [one.caption for one in drawn], case["caption_list"])
    check.equal(f"{case['name']}: images", len(drawn), case["num_images"])


def _in_order(step: Mapping[str, Any]) -> dict[str, Any]:
    names = ("cache_length_before", "fed", "first_position", "cache_after_length", "next_token")
    return {name: step[name] for name in names}


def _prompt(case: Mapping[str, Any]) -> Batch:
    ids, slots = case["prompt_ids"], case["prompt_image_index"] or []
    nothing = torch.zeros(0, dtype=torch.long)
    made = Batch(torch.tensor([ids]), torch.arange(len(ids))[None], torch.tensor([len(ids)]), nothing, nothing)
    if not slots:
        return made
    index = torch.tensor(slots).view(-1, case["num_query_tokens"])
    media = torch.stack([values(("image", seed)) for seed in range(len(index))])
    return replace(made, media={"image": media}, media_slots={"image": index})


def _text(check: Check, case: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """The text of an answer in the reference's results, from the ids of its text."""
    specials = about["specials"]
    words = [*about["words"], "look", "here", "x", "b", "y", "broken", "line", "two", "lines", "end", "\n"]
    tokenizer = SpecialWords(list(dict.fromkeys(words)), specials, pad_id=0)
    ids = [number for number in tokenizer.encode(case["in"]) if number != tokenizer.eos_id]
    layout = _layout(_model(tokenizer.vocab_size, case["num_query_tokens"]), tokenizer)
    drawn = [Drawn("", image=torch.zeros(3, 1, 1, dtype=torch.uint8))] * case["in"].count("<end>")
    parts = answer_of(layout, ids, drawn).parts
    ours = content_of(parts, ends_in_caption=isinstance(parts[-1], Drawing) and parts[-1].ref is None)
    theirs = " ".join(case["out"].removesuffix("</s>").split())
    if case["in"].startswith("<image>"):
        check.deviates(SLOTS)
        theirs = theirs.removeprefix("<image> ")
    elif "\n" in case["in"]:
        check.deviates(LINES)
        theirs = "line <image> end"
    check.equal(f"text {case['in']!r}", ours, theirs)


def _model(vocabulary: int, num_slots: int) -> ChatModel:
    sizes = {**LANGUAGE["architecture"], "vocab_size": vocabulary}
    bridge = {**PERCEIVER, "num_queries": num_slots, "queries": {"image": "visual"}}
    language = {**LANGUAGE, "architecture": sizes}
    encoders = {"vision": {"name": "eva_vit", "width": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "image_size": 28}}
    return tiny_model(encoders=encoders, bridges={"perceiver": bridge}, language=language, routes=ROUTES).eval()


def _layout(model: ChatModel, tokenizer: Any) -> Layout:
    return Layout(build_template("textbind", token_space="kept"), tokenizer, model.media_lengths())
