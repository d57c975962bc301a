"""Token sequences and labels of Multimodal-GPT's template: what the goldens flamingo_data and flamingo_e2e share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Media, assistant, user
from chatbridge.conversation.templates import build_template
from tests.parity.chatbind import tokenizer_of
from tests.parity.golden import Check

ADDED = ("<|endofchunk|>", "<image>", "<PAD>")
IMAGE = Media("image", "x")


@contextmanager
def layout_of(check: Check, **settings: Any) -> Iterator[Layout]:
    """Make the layout of `mmgpt` with the tokenizer of the goldens: one slot per image, filled by <image>."""
    with tokenizer_of(check) as read:
        tokenizer = read({token: 600 + number for number, token in enumerate(ADDED)}, 602)
        image = tokenizer.token_id("<image>")
        yield Layout(build_template("mmgpt", **settings), tokenizer, {"image": 1}, slot_ids={"image": image})


def conversation_of(turns: Sequence[tuple[str, str]], has_image: bool) -> Conversation:
    """Return questions and answers as a conversation, its image in the first question."""
    found = [message for asked, answer in turns for message in (user(asked), assistant(answer))]
    return (user(IMAGE, turns[0][0]), *found[1:]) if has_image else tuple(found)
