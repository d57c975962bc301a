"""ChatBind's token sequences and labels of training, and its prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Media, Message, Text, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.templates._chatbind_formats import FORMATS
from chatbridge.conversation.tokenizer import Tokenizer
from tests.parity.golden import Check
from tests.parity.token_sequences import labels_of

PATCH = "<im_patch>"
FILES = Path(__file__).parent / "reference" / "files"
MEDIA = r"\n(?:<im_start>)?(?:<im_patch>)+(?:<im_end>)?"
MASKED = "a sample whose labels the reference masks whole is refused: it would train nothing"
DRIFTED = "a media position is never supervised; the reference's mask may move over one, as its target <im_patch>"


def labels(check: Check) -> None:
    """Ids and labels of every sample in both versions, and the prompts of the command line with both tokenizers."""
    about = check.golden.about
    samples = {sample["id"]: sample for sample in about["samples"]}
    with tokenizer_of(check) as read:
        for case in about["cases"]:
            tokenizer = read(case["special_ids"], case["pad_id"])
            template = build_template(
                f"chatbind_{case['version']}", labels="released", start_end_tokens=case["mm_use_im_start_end"]
            )
            layout = Layout(template, tokenizer, {"image": max(1, case["repeat_feature_dim"])})
            for item in case["items"]:
                what = f"{case['version']}, n = {case['repeat_feature_dim']}, {item['id']}"
                _item(check, what, layout, samples[item["id"]], item)
        first = about["cases"][0]
        for case in about["inference"]:
            _prompt(check, case, read(first["special_ids"], first["pad_id"]))


def _item(check: Check, what: str, layout: Layout, sample: Mapping[str, Any], item: Mapping[str, Any]) -> None:
    tokenizer: Any = layout.tokenizer
    is_masked = all(label == -100 for label in item["labels"])
    try:
        row = layout.training_sequence(conversation_of(sample))
    except ValueError as error:
        check.equal(f"{what}: {error}", is_masked, True)
        check.deviates(MASKED)
        return
    check.equal(f"{what}: has supervised tokens", not is_masked, True)
    check.equal(f"{what}: is text alone", not row.media_slots, item["image_is_zero"])
    check.equal(f"{what}: ids", patched(row, tokenizer), item["input_ids"])
    want, patch = list(item["labels"]), tokenizer.token_id(PATCH)
    if patch in want:
        check.deviates(DRIFTED)
        want = [-100 if label == patch else label for label in want]
    check.equal(f"{what}: labels", labels_of(row), want)


def templates(check: Check) -> None:
    """The strings of all 17 formats: one question, two, and a prompt without the label of the assistant."""
    for name, case in check.golden.about["templates"].items():
        one, more = (user("{q1}"),), (user("{q1}"), assistant("{a1}"), user("{q2}"))
        version = "v1" if case["version"] == "v1" else "v0"
        for opens, key, turns in (
            (True, "one_pending", one),
            (True, "two_pending", more),
            (False, "question_only", one),
        ):
            template = build_template(f"chatbind_{version}", prompt=name, add_generation_prompt=opens)
            check.equal(f"{name}: {key}", template.render(turns, reply=True), case[f"prompt_{key}"])
        stops = template.stops or ("</s>",)
        check.equal(f"{name}: stop", stops[0], case["sep2"] or case["sep"])


def _prompt(check: Check, case: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """The ids of a prompt of the command line: blanks are kept by the fast tokenizer, stripped by the slow one."""
    form = FORMATS[case["conv_mode"]]
    query = re.search(rf"(?s)^(.*?){MEDIA}", case["prompt"].rpartition(form.user + form.after_role)[2])
    if query is None:
        raise ValueError(f"the prompt of {case['conv_mode']} has no question before its media")
    kind = next((one for one in ("audio", "video") if case["conv_mode"].endswith(one)), "image")
    turns = (user(Media(kind, "x"), query.group(1)),)
    name = "chatbind_v1" if case["conv_mode"].startswith("llava_v1") else "chatbind_v0"
    is_automatic = case["conv_mode"].startswith(("multimodal", "llava_v1"))
    for blanks, key in (("kept", "ids_fast"), ("stripped", "ids_slow")):
        for prompt in ("auto", case["conv_mode"]) if is_automatic else (case["conv_mode"],):
            template = build_template(
                name, prompt=prompt, prompt_whitespace=blanks, start_end_tokens="<im_start>" in case["prompt"]
            )
            layout = Layout(template, tokenizer, {kind: case["repeat"]})
            ids = patched(layout.prompt(turns), tokenizer)
            check.equal(f"{case['conv_mode']}, n = {case['repeat']}: {key}", ids, case[key])


def patched(row: Any, tokenizer: Tokenizer) -> list[int]:
    """The ids with the id of <im_patch> at the positions of media, where ours have the padding id."""
    ids = list(row.ids)
    for _, _, start, length in row.media_slots:
        ids[start : start + length] = [tokenizer.token_id(PATCH) or 0] * length
    return ids


def conversation_of(sample: Mapping[str, Any]) -> Conversation:
    """A record of LLaVA's layout as messages, its image at the marker."""
    return tuple(
        Message("user" if turn["from"] == "human" else "assistant", tuple(_parts(turn["value"])))
        for turn in sample["conversations"]
    )


def _parts(text: str) -> Iterator[Text | Media]:
    for number, piece in enumerate(text.split("<image>")):
        if number:
            yield Media("image", "x")
        yield Text(piece)


@contextmanager
def tokenizer_of(check: Check) -> Iterator[Any]:
    """Make tokenizers from the model of the goldens: (ids of the added tokens, padding id) -> Tokenizer."""
    name = str(check.golden.about["tokenizer"]).split()[0]
    own = (check.golden.folder or FILES) / name
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    with TemporaryDirectory(prefix="chatbridge-parity-") as folder:
        (Path(folder) / "tokenizer.model").write_bytes((own if own.exists() else FILES / name).read_bytes())
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        rows = Tokenizer.from_pretrained(folder).vocab_size  # of the language model, without the added tokens

        def read(ids: Mapping[str, int], pad: int) -> Tokenizer:
            names = {number: name for name, number in ids.items()} | ({pad: "[PAD]"} if pad >= rows else {})
            return Tokenizer.from_pretrained(folder, rows, [names[number] for number in sorted(names)])

        yield read
