"""The KV caches of several conversations: which one a prompt continues, how many are kept, and in how much memory."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language.decode import Decoding
from chatbridge.processors.limits import MB
from chatbridge.serve.caches.bounded_cache import tensor_bytes
from chatbridge.serve.caches.encoded_media import EncodedMedia
from chatbridge.serve.caches.prompt_cache import PromptCache, digests_of
from tests.helpers.fused_rows import SIX, Row, batch_of
from tests.helpers.gated_models import gated

IMAGE, OTHER = ("image", 0), ("image", 1)
ONE: Row = (1, 5, IMAGE, 7, 9)
TWO: Row = (1, 5, OTHER, 3, 3, 4)


def answered(kept: PromptCache, model: ChatModel, row: Row) -> tuple[int, Sequence[int]]:
    """Positions of a prompt that were cached, and its answer, which is kept."""
    cache, rest = kept.take(model, batch_of(row))
    start = cache.length
    growing = model.start_generation(rest, SIX, cache=cache)
    assert isinstance(growing, Decoding)
    while not growing.is_done:
        growing.step()
    kept.put(cache, batch_of(row), growing.chosen[0])
    return start, growing.chosen[0]


def test_conversations_that_alternate_are_both_kept() -> None:
    """Fails when a conversation takes the cache of another one that only begins alike, or is read again."""
    model, kept = gated(media="previous", gate=2.0), PromptCache()
    assert answered(kept, model, ONE)[0] == 0
    assert answered(kept, model, TWO)[0] == 2, "what both begin with"
    _, first = answered(kept, model, (*ONE, 8))
    assert answered(kept, model, (*TWO, 8))[0] == len(TWO)
    start, again = answered(kept, model, (*ONE, 8))  # asked once more
    assert start == len(ONE) and list(again) == list(first)
    assert answered(kept, model, (*ONE, 8, *first[:-1], 4))[0] >= len(ONE) + 1 + len(first) - 1
    assert kept.counts().num_entries == 2, "what is the beginning of another one is not kept beside it"


def test_caches_are_bounded_in_bytes() -> None:
    """Fails when more memory is kept than allowed, or of several conversations the one that was used last goes."""
    model, probe = gated(media="previous", gate=2.0), PromptCache()
    answered(probe, model, ONE)
    size = probe.counts().num_bytes
    assert probe.latest is not None and size > tensor_bytes(probe.latest[0]) > 0
    kept = PromptCache(2.5 * size / MB)
    rows: list[Row] = [(2, 5, IMAGE, 7, 9), (3, 5, IMAGE, 7, 9), (4, 5, IMAGE, 7, 9)]
    for row in rows:
        answered(kept, model, row)
        assert kept.counts().num_bytes <= 2.5 * size
    assert [answered(kept, model, row)[0] for row in (rows[2], rows[1], rows[0])] == [4, 4, 0]
    nothing = PromptCache(0)
    assert [answered(nothing, model, ONE)[0] for _ in range(2)] == [0, 0] and nothing.latest is None


def test_media_are_encoded_once() -> None:
    """Fails when an item that was encoded before is encoded again, or the tokens of two items are mixed up."""
    model, encoded = gated(media="previous", gate=2.0), EncodedMedia(1)
    both = batch_of((1, IMAGE, 2, OTHER))
    expected = model.encoded(both.media)["image"]  # pyright: ignore[reportArgumentType]
    one = batch_of((1, OTHER, 2))
    found, num_encoded = encoded.tokens(model, one.media, digests_of(one))
    assert num_encoded == 1 and found["image"].allclose(expected[1:], atol=1e-6)
    found, num_encoded = encoded.tokens(model, both.media, digests_of(both))
    assert num_encoded == 1 and found["image"].allclose(expected, atol=1e-6)
    assert encoded.tokens(model, both.media, digests_of(both))[1] == 0
    encoded.forget()
    assert encoded.tokens(model, both.media, digests_of(both))[1] == 2
