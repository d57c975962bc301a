"""The recorded preprocessing of ImageBind, where ../shared lies beside this checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.imagebind_media import VOCABULARY
from tests.parity.run import run_one

HOLDS = {
    "imagebind_audio_preproc": "a clip begins elsewhere, another channel counts, or padding is normalised otherwise",
    "chatbind_audio_preproc": "the rule for clips of ChatBind's pytorchvideo is lost",
    "imagebind_video_preproc": "a clip takes other frames, a crop moves, or the resize antialiases",
    "chatbind_image_preproc": "the crop of a rule is off by a pixel, or a filter differs",
}


def test_ids_of_texts(shared_reference: Path) -> None:
    """Fails when ids differ, with the vocabulary at hand, or the case does not say what it needs without it."""
    line = run_one(shared_reference / "golden" / "imagebind_tokenizer.json")
    assert line.get("ok") or VOCABULARY in line.get("skipped", ""), line


@pytest.mark.parametrize("stem", HOLDS)
def test_the_reference_holds(stem: str, shared_reference: Path) -> None:
    """Fails when what HOLDS says about a case is so."""
    line = run_one(shared_reference / "golden" / f"{stem}.json")
    assert line.get("ok"), line
