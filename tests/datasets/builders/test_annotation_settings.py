"""Settings of annotated media that cannot work: files, folders, tags and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS
from tests.helpers.tiny_media import write_json


def problems(options: dict[str, Any], builder: str = "captions") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(BUILDERS.get(builder).Config, options, path="data.sources.x")
    return " ".join(str(caught.value).split())


def test_settings_that_cannot_work_are_problems(tmp_path: Path):
    """fails when a missing file, an unused folder, or a wrong tag is found only during the run"""
    annotations = str(write_json(tmp_path / "coco.json", [{"image_id": "a", "caption": "x"}]))
    text = problems(
        {"annotations": str(tmp_path / "cocoo.json"), "tag": "ti-cap", "image_folder": str(tmp_path / "no")}
    )
    assert "data.sources.x.annotations" in text and "coco.json?" in text and "data.sources.x.image_folder" in text
    text = problems({"annotations": annotations, "tag": "ti-cap"})
    assert "data.sources.x.image_folder" in text and "is missing" in text
    text = problems(
        {"annotations": annotations, "tag": "ta", "image_folder": str(tmp_path), "audio_folder": str(tmp_path)}
    )
    assert "image_folder" in text and "is not used" in text
    for tag, meant in (("tv-station", None), ("ti-capp", "ti-cap"), ("tiva-cap", "tva-cap"), ("cap", None)):
        text = problems({"annotations": annotations, "tag": tag, "image_folder": str(tmp_path)})
        assert f"cannot be '{tag}'" in text and (meant is None or f"did you mean {meant}?" in text)


def test_prompt_files_that_cannot_serve_are_problems(tmp_path: Path):
    """fails when a prompt file without the tag, or with prompts that have no room for a question, is found mid-run"""
    annotations = str(write_json(tmp_path / "a.json", [{"image_id": "a", "question": "x", "answer": "y"}]))
    base = {"annotations": annotations, "tag": "ti-shortqa", "image_folder": str(tmp_path)}
    cases = (
        (json.dumps({"ti-shortaq": ["<QUESTION>"]}), "did you mean ti-shortaq"),
        (json.dumps({"ti-shortqa": ["Answer."]}), "must contain <QUESTION>"),
        (json.dumps({"ti-shortqa": []}), "expected a list of prompts"),
        ("{", "is not a prompt file"),
    )
    for number, (content, message) in enumerate(cases):
        (tmp_path / f"p{number}.json").write_text(content)
        assert message in problems({**base, "prompts": str(tmp_path / f"p{number}.json")}, "questions")
    assert "cannot be read" in problems({**base, "prompts": str(tmp_path / "none.json")}, "questions")
    unused = problems({**base, "tag": "ti-qa", "prompts": str(tmp_path / "p0.json")}, "questions")
    assert "is not used" in unused
    missing = problems({**base, "tag": "ta-shortqa", "image_folder": None, "audio_folder": str(tmp_path)}, "questions")
    assert "no prompts for the tag 'ta-shortqa'" in missing


def test_one_prompt_in_place_of_a_list(tmp_path: Path):
    """fails when an evaluation cannot fix the text of its questions, or a text without room for them is accepted"""
    asked = str(write_json(tmp_path / "a.json", [{"image_id": "a", "question": "Who?", "answer": "a man"}]))
    told = str(write_json(tmp_path / "c.json", [{"image_id": "a", "caption": "A man."}]))
    (tmp_path / "a.jpg").write_bytes(b"not decoded here")
    base = {"image_folder": str(tmp_path)}
    for builder, file, tag, prompt, text in (
        ("questions", asked, "ti-qa", "In a word: <QUESTION>", "In a word: Who?"),
        ("questions", asked, "ti-shortqa", "Shortly, <QUESTION>", "Shortly, Who?"),
        ("captions", told, "ti-cap", "What is this?", "What is this?"),
    ):
        part: Any = BUILDERS.get(builder)
        source = part(parse(part.Config, {**base, "annotations": file, "tag": tag, "prompt": prompt}), "x")
        assert source.record(0, np.random.default_rng(0)).conversation[0].text == text
    for builder, file, tag, settings, message in (
        ("questions", asked, "ti-qa", {"prompt": "<QUESTION> <OPTIONS>"}, "prompt has no field <OPTIONS>"),
        ("questions", asked, "ti-qa", {"prompt": "<imge> <QUESTION>"}, "prompt has no field <imge>"),
        (
            "questions",
            asked,
            "ti-qa",
            {"prompt": "<video> <QUESTION>"},
            "prompt has <video>, but the questions have image",
        ),
        ("questions", asked, "ti-qa", {"prompt": "In a word:"}, "prompt has no <QUESTION>, the place of the question"),
        ("captions", told, "ti-cap", {"prompt": "<QUESTION>"}, "has <QUESTION>; nothing is asked: '<QUESTION>'"),
        ("captions", told, "ti", {"prompt": "x"}, "is not used: the tag 'ti' takes its text from the annotations"),
        ("captions", told, "ti-cap", {"prompt": " "}, "prompt is empty"),
        ("captions", told, "ti-cap", {"prompt": "x", "prompts": told}, "prompts is not used beside `prompt`"),
    ):
        assert message in problems({**base, "annotations": file, "tag": tag, **settings}, builder)
