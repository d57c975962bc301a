"""One conversation, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chatbridge.conversation.messages import Media, Text, user
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.serve.dialogue import Dialogue, record_of
from chatbridge.serve.media_refs import MediaRef
from tests.helpers.serve_parts import SHORT


@pytest.fixture
def dialogue(engine, tmp_path):
    return Dialogue(engine, tmp_path, SHORT)


def last(turns):
    *_, turn = turns
    return turn


def test_questions_continue_until_undo_or_reset(dialogue, engine, world, prompts):
    """fails when a following question loses the conversation, or undo and reset leave something behind"""
    dialogue.attach(MediaRef(str(world.files["image"]), "image"))
    first = last(dialogue.ask("what color is it ?"))
    assert first.answer == engine.reply([world.files["image"], "what color is it ?"], SHORT) and not dialogue.pending
    second = last(dialogue.ask("and the shape ?"))
    assert list(prompts[-1].media) == ["image"] and dialogue.turns == (first, second)
    assert dialogue.undo() == second and dialogue.turns == (first,)
    assert last(dialogue.ask("and the shape ?")).answer == second.answer
    dialogue.reset()
    last(dialogue.ask("what color is it ?"))
    assert len(dialogue.turns) == 1 and not prompts[-1].media
    assert list(dialogue.ask("  ")) == [] and len(dialogue.turns) == 1


def test_a_stopped_answer_stays_in_the_conversation(dialogue):
    """fails when closing an answer loses the question, or the next question does not follow what was said"""
    dialogue.options = replace(SHORT, max_new_tokens=300)
    turns = dialogue.ask("what color is it ?")
    said = next(turn for turn in turns if turn.answer)
    turns.close()
    assert dialogue.turns == (said,) and not said.is_done
    dialogue.options = SHORT
    last(dialogue.ask("go on"))
    assert dialogue.turns[0].is_done and dialogue.turns[0].notes == ("this answer was stopped",)


def test_a_seed_repeats_a_conversation_and_not_an_answer(engine, world, tmp_path):
    """fails when a seed does not repeat a conversation, or makes another answer to the same question impossible"""

    def talk() -> list[str]:
        dialogue = Dialogue(engine, tmp_path, replace(SHORT, sample=True, temperature=3.0, seed=5))
        return [last(dialogue.ask("what color is it ?")).answer, last(dialogue.retry()).answer]

    first, again = talk(), talk()
    assert first == again and first[0] != first[1]
    assert list(Dialogue(engine, tmp_path).retry()) == []


def test_the_length_limit_shows(dialogue):
    """fails when an answer that reached its longest length looks like a complete one, or tokens are not counted"""
    cut = last(dialogue.ask("what color is it ?"))
    assert cut.is_cut and cut.num_tokens == SHORT.max_new_tokens
    assert record_of(cut) == {
        "prompt": "what color is it ?", "media": [], "answer": cut.answer, "tokens": 10, "is_complete": False
    }  # fmt: skip


def test_the_form_of_a_question_is_the_models(engine, world, monkeypatch, dialogue, prompts):
    """fails when the files of a question are placed elsewhere than evaluation.question says"""
    monkeypatch.setattr(engine, "question_form", QuestionForm(media="after_text", separator="\n"))
    dialogue.attach(MediaRef(str(world.files["video"]), "video"))
    turn = last(dialogue.ask("what ?"))
    assert [item.modality for item in turn.question.media] == ["video"]  # its audio track was not asked for
    assert turn.notes == ("clip.mp4 is read as video only; its audio track counts where it is attached as audio",)
    assert turn.question == user(Text("what ?\n"), turn.attached[0].media[0])
    assert isinstance(turn.question.parts[-1], Media) and turn.problem is None
