"""Public annotation layouts: miniatures of each, with mistakes, missing parts and duplicates."""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Text
from chatbridge.datasets.builders import BUILDERS, Dataset, Record
from tests.helpers.caption_files import CAPTION_FILES
from tests.helpers.dialogue_files import AVSD, AVSD_MULTIREF, AVSD_TEST, DIALOGUE_FILES
from tests.helpers.mini_audio_visual import AVHBENCH_FILES
from tests.helpers.miniature import Miniature, prompts, replaced
from tests.helpers.question_files import COCO, QUESTION_FILES, VQA_ANSWERS, VQA_QUESTIONS
from tests.helpers.statement_files import STATEMENT_FILES
from tests.helpers.tiny_media import layout, write_json

MINIATURES = {**QUESTION_FILES, **CAPTION_FILES, **DIALOGUE_FILES, **STATEMENT_FILES, **AVHBENCH_FILES}
WITH_MEDIA = [name for name, one in MINIATURES.items() if one.media]


def first(source: Dataset, counter: int = 0) -> Record:
    return source.record(0, seeds.stream(0, "test", counter))


def shown(record: Record, folder: Path) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return tuple(
        (message.role, message.text, tuple(str(item.ref.relative_to(folder / "media")) for item in message.media))
        for message in record.conversation
    )


@pytest.mark.parametrize("name", MINIATURES)
def test_a_layout_is_read(name: str, tmp_path: Path):
    """fails when a layout loses a sample, text, an answer, a file, an id or a field that results are grouped by"""
    miniature = MINIATURES[name]
    source = miniature.open(tmp_path, **prompts(tmp_path, miniature))
    record = next(one for one in (first(source, k) for k in range(20)) if _is_expected(one, miniature))
    assert len(source) == miniature.count
    assert shown(record, tmp_path) == miniature.first
    assert record.references == miniature.references
    if miniature.builder != "instructions":  # which have no media that could be missing
        assert source.references(0) == (() if name == "ocrvqa_list" else miniature.references)
    assert record.id == source.sample_id(0) == miniature.id
    assert {key: record.details[key] for key in miniature.details} == miniature.details
    assert not any(key.startswith("_") for key in record.details)
    assert {item.modality for message in record.conversation for item in message.media} <= source.modalities
    assert first(pickle.loads(pickle.dumps(source))) == first(source)


def _is_expected(record: Record, miniature: Miniature) -> bool:
    return record.conversation[-1].text == miniature.first[-1][1]


@pytest.mark.parametrize("name", MINIATURES)
def test_a_wrong_record_is_named(name: str, tmp_path: Path):
    """fails when a wrong record is accepted, or the message lacks its place or the mistake"""
    miniature = MINIATURES[name]
    with pytest.raises(DataError) as caught:
        miniature.open(tmp_path, broken=True, **prompts(tmp_path, miniature))
    assert miniature.breaks[2] in " ".join(str(caught.value).split())


@pytest.mark.parametrize("name", WITH_MEDIA)
def test_missing_media_are_that_samples_failure(name: str, tmp_path: Path):
    """fails when a missing file ends the run, or is not named"""
    miniature = MINIATURES[name]
    source = miniature.open(tmp_path, **prompts(tmp_path, miniature))
    (tmp_path / "media" / miniature.media[0]).unlink()
    with pytest.raises(MediaError, match="no (image|video|audio) file for '"):
        first(source)
    assert source.sample_id(0) == miniature.id


def test_every_format_has_a_miniature():
    """fails when a format is added without a reader or without a miniature of its layout"""
    tried = {(one.builder, one.settings["format"]) for one in MINIATURES.values()}
    for builder in ("captions", "questions", "dialogues", "instructions", "statements"):
        config: Any = BUILDERS.get(builder).Config
        names = set(get_args(get_type_hints(config)["format"]))
        assert set(config.formats) == names
        assert {(builder, name) for name in names - {"multis"}} <= tried


def problems(miniature: Miniature, folder: Path, **settings: Any) -> str:
    part: Any = BUILDERS.get(miniature.builder)
    with pytest.raises(ConfigError) as caught:
        parse(part.Config, {**miniature.write(folder), **settings}, path="data.sources.x")
    return " ".join(str(caught.value).split())


def test_answers_are_drawn_as_often_as_annotators_gave_them(tmp_path: Path):
    """fails when training takes one answer only, or draws every different answer equally often"""
    source = MINIATURES["vqav2"].open(tmp_path)
    drawn = Counter(first(source, counter).conversation[-1].text for counter in range(600))
    assert set(drawn) == {"down", "table", "at table", "skateboard"}
    assert drawn["down"] / 600 == pytest.approx(0.7, abs=0.05)


def test_keys_that_a_format_needs_or_does_not_take(tmp_path: Path):
    """fails when a missing second file is found only while reading, or a key without effect is accepted"""
    vqa = MINIATURES["vqav2"]
    text = problems(vqa, tmp_path, questions=None)
    assert "data.sources.x.questions" in text and "has two files" in text and "_questions.json" in text
    assert "there is no file" in problems(vqa, tmp_path, questions=str(tmp_path / "no.json"))
    text = problems(MINIATURES["gqa"], tmp_path, choices=True)
    assert "x.choices is not used by the format 'gqa'; it belongs to: aokvqa, avqa" in text
    assert "did you mean vqav2?" in problems(vqa, tmp_path, format="vqa_v2")
    assert "split is not used by the format 'coco'; it belongs to: karpathy" in problems(
        MINIATURES["coco"], tmp_path, split="train"
    )
    assert "not the text in an image" in problems(MINIATURES["coco"], tmp_path, tag="ti-ocr")
    assert "x.unanswered is not used by the format 'multis'" in problems(
        MINIATURES["coco"], tmp_path, format="multis", unanswered="skip"
    )


def test_duplicates_are_refused_or_renamed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """fails when a duplicate key of a join silently selects one, or two samples have one name in the failure log"""
    doubled = replaced(VQA_QUESTIONS, ("questions",), VQA_QUESTIONS["questions"] * 2)
    for name, files, message in (
        (
            "vqav2",
            {"a": VQA_ANSWERS, "questions": doubled},
            "questions, record 2: question_id 262148000 is defined twice",
        ),
        ("vqav2", {"a": {"annotations": VQA_ANSWERS["annotations"] * 2}, "questions": VQA_QUESTIONS}, "answered twice"),
        (
            "coco",
            {"a": replaced(COCO, ("images",), COCO["images"] * 2)},
            "images, record 2: the id 391895 is defined twice",
        ),
        ("gqa", {"a": '{"1": {"imageId": "1", "question": "q", "answer": "a"}, "1": {}}'}, "id 1 is defined twice"),
    ):
        with pytest.raises(DataError, match=message):
            Miniature(**{**vars(MINIATURES[name]), "files": files}).open(tmp_path)
    with caplog.at_level(logging.WARNING):
        source = MINIATURES["video_chatgpt"].open(tmp_path)
    assert [source.sample_id(k) for k in range(2)] == ["v_k_ZXmr8pmrs", "v_k_ZXmr8pmrs#2"]
    assert "repeated ids: 1; the later ones are named v_k_ZXmr8pmrs#2" in caplog.text


def test_questions_without_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """fails when a test split trains on empty answers, is silently dropped, or cannot be used for an evaluation"""
    files = {"v2_test": replaced(VQA_QUESTIONS, ("data_subtype",), "test-dev2015")}
    test = Miniature(**{**vars(MINIATURES["vqav2"]), "files": files, "media": ("COCO_test2015_000000262148.jpg",)})
    assert "questions is missing" in problems(test, tmp_path)
    with caplog.at_level(logging.WARNING):
        source = test.open(tmp_path, unanswered="keep")
    assert "records without an answer, for evaluation prompts only: 2" in (source.note() or "")
    assert "without an answer" not in caplog.text  # as wanted: not a warning, with which `data check` would exit
    record = first(source)
    assert record.references == () and record.conversation[-1].text == "" and len(source) == 2
    with pytest.raises(ValueError, match="no token of this conversation is supervised"):
        layout("vicuna_v0").training_sequence(record.conversation)
    half = replaced(COCO, ("annotations",), COCO["annotations"][1:2])
    images = Miniature(**{**vars(MINIATURES["coco"]), "files": {"captions": half}})
    with pytest.raises(DataError, match="images, record 0: has no answer; `unanswered: skip`"):
        images.open(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(images.open(tmp_path, unanswered="skip")) == 1
    assert "records without an answer, left out: 1 (the first: images, record 0)" in caplog.text


def test_hidden_answers_of_avsd(tmp_path: Path):
    """fails when __UNDISCLOSED__ is supervised or becomes a reference"""
    hidden = replaced(AVSD, ("dialogs", 0, "dialog", 1, "answer"), "__UNDISCLOSED__")
    test = Miniature(**{**vars(MINIATURES["avsd"]), "files": {"test_set": hidden}})
    with pytest.raises(DataError, match="holds no samples"):
        test.open(tmp_path)
    record = first(test.open(tmp_path, unanswered="keep"))
    assert [message.text for message in record.conversation][-3:] == ["yes , one man", "any sound ?", ""]
    assert record.references == () and record.conversation[-1].is_supervised is False


def test_references_of_avsd_belong_to_their_dialogues(tmp_path: Path):
    """fails when references of another split, or in another order, are scored with the wrong dialogue"""
    test = MINIATURES["avsd_test"]
    source = test.open(tmp_path, context=[])
    assert [source.sample_id(k) for k in range(2)] == ["7UPGT", "2WSPB"]
    assert source.details(1) == {"rounds": 1}
    short = first(test.open(tmp_path, history=0))
    assert [message.text for message in short.conversation] == ["any sound ?", "there is some music"]
    assert short.references == test.references and [len(message.media) for message in short.conversation] == [1, 0]
    one = replaced(AVSD_MULTIREF, ("images",), AVSD_MULTIREF["images"][:1])
    one = replaced(one, ("annotations",), one["annotations"][1:2])
    nameless = replaced(AVSD_MULTIREF, ("images",), [{"id": 1}, {"id": 2}])
    for references, message in (
        (one, "has the answers to 1 questions, and the dialogues are 2; are both files of the same split"),
        (replaced(AVSD_MULTIREF, ("annotations", 1, "image_id"), 2), "images, record 0: has no answers"),
        (AVSD_TEST, "dialogs, record 0: its last answer is hidden; is this the file of `annotations`"),
        (
            replaced(AVSD_MULTIREF, ("images", 0, "file_name"), "a.jpg"),
            "images, record 0: has a 'file_name': captions of",
        ),
        (
            replaced(nameless, ("images",), [{"id": 2}, {"id": 1}]),
            "record 0: has no 'name', and the id 2 where 1 follows",
        ),
    ):
        other = Miniature(**{**vars(test), "files": {"test": AVSD_TEST, "references": references}})
        with pytest.raises(DataError, match=message):
            other.open(tmp_path)
    labels = {"dialogs": [{"image_id": name, "dialog": [{"question": "?", "answer": answer}]}
                          for name, answer in (("2WSPB", "no"), ("7UPGT", "some music"))]}  # fmt: skip
    one_each = Miniature(**{**vars(test), "files": {"test": AVSD_TEST, "references": labels}})
    found = first(one_each.open(tmp_path))
    assert found.references == ("some music",) and len(found.conversation) == 4
    swapped = Miniature(**{**vars(test), "files": {"test": AVSD_MULTIREF, "references": AVSD_TEST}})
    with pytest.raises(DataError, match="expected 'dialogs', found .*'images'.*; is this the file of `references`"):
        swapped.open(tmp_path)
    (tmp_path / "media/7UPGT.mp4").write_bytes(b"x")
    in_order = Miniature(**{**vars(test), "files": {"test": AVSD_TEST, "references": nameless}})
    assert first(in_order.open(tmp_path)).references == ("no",)


def test_splits(tmp_path: Path):
    """fails when a misspelled split gives an empty source, or another split is used"""
    karpathy = MINIATURES["karpathy"]
    assert len(karpathy.open(tmp_path, split=None)) == 3
    with pytest.raises(
        DataError, match=r"no split 'tran'; its splits: test \(1\), restval \(1\), train \(1\); .*'train'"
    ):
        karpathy.open(tmp_path, split="tran")
    assert len(MINIATURES["ocrvqa"].open(tmp_path, split="test")) == 1
    assert len(MINIATURES["ocrvqa"].open(tmp_path, split=None)) == 3


def test_answer_forms(tmp_path: Path):
    """fails when the short answer, the open question or a number as an answer is not available"""
    assert first(MINIATURES["gqa"].open(tmp_path, full_answers=False)).references == ("yes",)
    open_question = first(MINIATURES["aokvqa"].open(tmp_path, choices=False))
    assert open_question.references == ("bus",) * 10 and open_question.conversation[0].text == "What is it?"
    (tmp_path / "media" / "video9.mp4").write_bytes(b"x")
    source = MINIATURES["msrvttqa"].open(tmp_path)
    assert source.record(1, seeds.stream(0, "test")).references == ("2",)
    assert first(MINIATURES["alpaca"].open(tmp_path, preamble=False)).conversation[0].role == "user"
    short = first(MINIATURES["llava"].open(tmp_path, max_turns=2))
    assert [message.text for message in short.conversation] == ["What colors?", "White and red."]


def test_several_images_are_put_at_their_markers(tmp_path: Path):
    """fails when images are moved together, or a text-only record needs one"""
    message = first(MINIATURES["sharegpt_media"].open(tmp_path)).conversation[1]
    folder = tmp_path / "media"
    images = [Media("image", folder / name) for name in ("a.png", "b.png")]
    assert message.parts == (images[0], Text("Now compare it with"), images[1])
    source = MINIATURES["llava"].open(tmp_path)
    assert source.record(1, seeds.stream(0, "test")).conversation[0].parts == (Text("Hi"),)


def test_the_qa90_questions_of_llava_are_records(llava_files: Path, tmp_path: Path):
    """fails when real files of the LLaVA family are refused: questions and answers joined as one dialogue each"""
    questions = [json.loads(line) for line in (llava_files / "qa90_questions.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (llava_files / "qa90_gpt4_answer.jsonl").read_text().splitlines()]
    replies = {answer["question_id"]: answer["text"] for answer in answers}
    records = [
        {"id": str(one["question_id"]), "image": one["image"], "conversations": [
            {"from": "human", "value": one["text"]}, {"from": "gpt", "value": replies[one["question_id"]]}]}
        for one in questions
    ]  # fmt: skip
    path = write_json(tmp_path / "qa90.jsonl", records)
    part: Any = BUILDERS.get("dialogues")
    source = part(part.Config(annotations=path, tag="ti-conv", format="llava", image_folder=tmp_path), "qa90")
    assert len(source) == 90
    (tmp_path / questions[0]["image"]).write_bytes(b"x")
    assert first(source).references == (replies[questions[0]["question_id"]],)
    assert first(source).conversation[0].text == questions[0]["text"]


def test_the_coco_instructions_are_records(llava_files: Path):
    """fails when a real file with Alpaca's fields and others is refused"""
    part: Any = BUILDERS.get("instructions")
    path = llava_files / "coco2014_val_gpt4_qa_30x3.jsonl"
    source = part(part.Config(annotations=path, format="alpaca"), "coco")
    record = json.loads(path.read_text().splitlines()[0])
    assert len(source) == 90
    assert [message.text for message in first(source).conversation] == [record["instruction"], record["output"]]
