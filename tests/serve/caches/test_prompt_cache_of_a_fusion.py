"""The kept cache of a conversation whose media are read by layers inside the language model."""

from __future__ import annotations

import pytest

from chatbridge.serve.caches.prompt_cache import PromptCache
from tests.helpers.fused_rows import SIX, Row, batch_of
from tests.helpers.gated_models import gated

IMAGE, OTHER = ("image", 0), ("image", 1)
FIRST: Row = (1, 5, IMAGE, 7, 9)
# what is asked after it, and the positions of FIRST that stay valid with `previous` and with `next`
ASKED: tuple[tuple[Row, int, int], ...] = (
    ((*FIRST, 8, 4), 5, 5),  # more text
    ((*FIRST, 8, OTHER, 4), 5, 0),  # text and an item, which earlier text reads with `next`
    ((1, 5, OTHER, 7, 9), 2, 0),  # another item in the same place
    ((1, 5, 7, 9), 0, 0),  # no item any more: no block changes the conversation
)


@pytest.mark.parametrize("reach", ["previous", "next"])
def test_a_cache_is_kept_where_its_states_stay(reach: str) -> None:
    """Fails when an answer differs from that of a new cache, or a cache is thrown away that could be used."""
    model = gated(media=reach, gate=2.0)
    for asked, previous, following in ASKED:
        kept = PromptCache()
        cache, rest = kept.take(model, batch_of(FIRST))
        growing = model.start_generation(rest, SIX, cache=cache)
        while not growing.is_done:
            growing.step()
        kept.put(cache, batch_of(FIRST), growing.chosen[0])
        cache, rest = kept.take(model, batch_of(asked))
        assert cache.length == (previous if reach == "previous" else following), asked
        assert model.generate(rest, SIX, cache=cache) == model.generate(batch_of(asked), SIX)
