"""Lengths from the text alone: those of the sequences that the reader makes of the same draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.datasets.batching import Batching
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.draw_lengths import UNKNOWN, DrawLengths
from chatbridge.datasets.order.mixture import Draw
from chatbridge.datasets.padding_share import measured_padding, measured_steps, padding_lines, padding_of
from chatbridge.datasets.sample_reader import SampleReader
from tests.helpers.loader_data import PROCESSORS, broken_pictures, data, open_sources
from tests.helpers.tiny_media import jpeg, layout, write_tar


def test_lengths_are_those_of_the_sequences(tmp_path: Path) -> None:
    """fails when another caption or prompt is measured than the reader draws, or media are not counted"""
    members: list[tuple[str, bytes | str]] = []
    for number in range(12):
        captions = [" ".join(["red"] * (1 + number + 9 * which)) for which in range(4)]
        members += [(f"{number}.jpg", jpeg()), (f"{number}.json", json.dumps({"caption": captions}))]
    web = {"name": "web_pairs", "shards": str(write_tar(tmp_path / "w.tar", members)), "modality": "image"}
    sounds = {"name": "questions", "annotations": f"{tmp_path}/sounds.json", "tag": "ta-qa",
              "audio_folder": str(tmp_path)}  # fmt: skip
    data(tmp_path)  # the audio files
    config = data(tmp_path, sources={"web": web, "sounds": sounds})
    mixture, lay = build_mixture(config, open_sources(config), 11, 16), layout("vicuna_v0")
    draws = [draw for step in range(4) for draw in mixture.draws(step)]
    found = DrawLengths(mixture, lay, 5)(draws)
    assert found == [len(one.sequence) for one in SampleReader(mixture, lay, PROCESSORS, 5)(draws)]
    assert len(set(found)) > 15 and min(found) > UNKNOWN


def test_a_cut_sequence_and_the_token_at_its_start() -> None:
    """fails when a cut conversation counts in full, or the beginning-of-sequence token is forgotten"""
    talk = (user(Media("image", b"")), assistant(" ".join(["red"] * 60)))
    short = layout("caption", max_tokens=20)
    assert short.training_length(talk) == len(short.training_sequence(talk)) == short.longest == 21
    whole = layout("vicuna_v0")
    assert whole.training_length(talk) == len(whole.training_sequence(talk)) and whole.longest is None


def test_media_files_are_not_opened(tmp_path: Path) -> None:
    """fails when a broken image has no length: it would be sorted elsewhere than its replacement needs"""
    config = broken_pictures(tmp_path)
    mixture = build_mixture(config, open_sources(config), 11, 9)
    found = DrawLengths(mixture, layout(), 5)([Draw("web", index, index) for index in range(9)])
    assert UNKNOWN not in found
    text_is_gone = open_sources(data(tmp_path, sources={"web": {
        "name": "web_pairs", "modality": "image",
        "shards": str(write_tar(tmp_path / "blank.tar", [("1.jpg", jpeg()), ("1.txt", " ")])),
    }}))  # fmt: skip
    mixture = build_mixture(config, {"web": text_is_gone["web"]}, 11, 1)
    assert DrawLengths(mixture, layout(), 5)([Draw("web", 0, 0)]) == [UNKNOWN]


def test_padding_is_counted_up_to_the_longest_row() -> None:
    """fails when the padding of packed rows is counted up to the budget, or a row counts as a conversation"""
    padded = padding_of([10, 20, 30], Batching())
    assert (padded.positions, padded.tokens, padded.rows, padded.conversations) == (90, 60, 3, 3)
    assert padded.share == pytest.approx(1 / 3)
    packed = padding_of([10, 20, 30], Batching("packed", token_budget=40))
    assert (packed.positions, packed.tokens, packed.rows, packed.conversations) == (60, 60, 2, 3)
    assert padding_of([], Batching()).share == 0 and (padded + packed).tokens == 120


def test_micro_batches_of_unknown_length_are_left_out(tmp_path: Path) -> None:
    """fails when remote shards count as conversations without a token"""
    config = data(tmp_path)
    mixture = build_mixture(config, open_sources(config), 11, 8)

    def lengths(draws: list[Draw]) -> list[int]:
        return [UNKNOWN if draw.source == "sounds" else 10 for draw in draws]

    found = measured_padding(mixture, lengths, Batching(), 8, range(6))  # pyright: ignore[reportArgumentType]
    assert found.conversations == sum(draw.source == "pictures" for step in range(6) for draw in mixture.draws(step))
    lines = list(padding_lines(mixture, lambda draws: [UNKNOWN] * len(draws), Batching(), 8, 6))
    assert "padding not measured" in lines[-1]


def test_measured_steps_are_whole_windows_of_the_run() -> None:
    """fails when a window is measured in part, or steps after the end of a short run"""
    assert measured_steps(8, 1, 3) == [0, 1, 2]
    found = measured_steps(256, 4, 200_000)
    assert len(found) == 32 and found[:5] == [0, 1, 2, 3, 25_000] and found[-1] < 200_000
