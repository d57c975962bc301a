"""Generation settings of a chat: those of the YAML, and those that a user changes."""

from __future__ import annotations

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.models.language.answer_options import AnswerOptions, changed


def test_a_temperature_turns_sampling_on_and_zero_turns_it_off():
    """fails when a temperature has no effect, or 0 keeps a sampling setting that no longer counts"""
    greedy = AnswerOptions()
    warm = changed(greedy, {"temperature": 0.7, "top_p": 0.9})
    assert (warm.sample, warm.temperature, warm.top_p, warm.max_new_tokens) == (True, 0.7, 0.9, 256)
    assert changed(warm, {"temperature": 0}) == greedy == changed(warm, {"sample": False})
    assert changed(warm, {"max_new_tokens": 5}).temperature == 0.7


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"top_p": 0.5}, ValueError, "top_p has no effect without sampling"),
        ({"temperature": 0, "top_k": 5}, ValueError, "top_k has no effect without sampling"),
        ({"length_penalty": 2.0}, ValueError, "length_penalty has no effect without num_beams above 1"),
        ({"temperature": 1000}, ValueError, "temperature"),
        ({"temperature": -1}, ValueError, "temperature"),
        ({"temperature": "hot"}, TypeError, "temperature is 'hot', expected a number"),
        ({"min_new_tokens": 300}, ValueError, "above max_new_tokens"),
        ({"tempature": 1}, TypeError, "did you mean temperature"),
    ],
)
def test_settings_without_effect_are_refused(settings, error, words):
    """fails when a setting that would do nothing, or cannot be, is accepted silently"""
    with pytest.raises(error, match=words):
        changed(AnswerOptions(), settings)


def test_a_file_reports_all_its_mistakes():
    """fails when a YAML may set what has no effect, or reports one mistake at a time"""
    assert parse(AnswerOptions, {"sample": True, "temperature": 0.2}, path="answers").max_new_tokens == 256
    with pytest.raises(ConfigError) as caught:
        parse(AnswerOptions, {"temperature": 0.2, "length_penalty": 2.0}, path="answers")
    assert [problem.path for problem in caught.value.problems] == ["answers.temperature", "answers.length_penalty"]
    with pytest.raises(ConfigError, match=r"answers\.tempature[\s\S]*did you mean temperature"):
        parse(AnswerOptions, {"tempature": 0.2}, path="answers")
