"""What a template makes of a conversation, as text with its media in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.conversation.messages import Conversation
from chatbridge.conversation.spans import BranchSpan, MediaSpan, Span, TextSpan
from chatbridge.experiment.tokens import special_name


@dataclass(frozen=True)
class Segment:
    """A part of the prompt: text of the template's exact string, or a media item.

    length   its positions in the token sequence; 0 for the two parts of a text that is cut
    """

    text: str
    supervised: bool = False
    modality: str = ""
    is_cut: bool = False  # beyond the maximum length
    length: int = 0


def spaced(segments: Sequence[Segment]) -> Iterator[tuple[str, Segment]]:
    """Yield every segment with the gap before it: a space between a word and an adjacent media item."""
    last = None
    for one in segments:
        is_beside = last is not None and bool(last.modality) != bool(one.modality)
        edges = (last.text[-1:], one.text[:1]) if is_beside and last is not None else ("", "")
        yield (" " if any(edge.isalnum() for edge in edges) else ""), one
        last = one


def segments_of(conversation: Conversation, layout: Any, reply: bool) -> list[Segment]:
    """The template's exact string, divided where it is tokenised separately.

    reply   the prompt for an answer, not a training sequence
    """
    ids = {"bos": layout.tokenizer.bos_id, "eos": layout.tokenizer.eos_id}
    specials: Mapping[str, Any] = {
        name: None if number is None else special_name(layout.tokenizer, number) for name, number in ids.items()
    }
    write, lengths = layout.template.spans, layout.media_lengths
    texts = write(conversation, _as_one_token, lengths, reply, specials)
    spans = write(conversation, layout.tokenizer.encode, lengths, reply, ids)
    if len(texts) != len(spans):  # the template divides segments between tokens (chatbind_v0, labels: released)
        texts = [_decoded(span, layout.tokenizer) for span in spans]
    if reply:  # as Layout.prompt does
        texts, spans = ([span for span in some if not isinstance(span, BranchSpan)] for some in (texts, spans))
    kept = spans if reply else layout.cut(spans)
    segments = [] if layout.template.writes_bos or ids["bos"] is None else [Segment(str(specials["bos"]), length=1)]
    texts = [_named(span, layout.tokenizer) for span in texts]
    for at, span in enumerate(texts):
        left = kept[at] if at < len(kept) else None
        if isinstance(left, TextSpan | BranchSpan) and left.length < spans[at].length:
            segments += _divided(_segment(span), _text_of(left.ids[: left.length], layout.tokenizer))
        else:
            segments.append(replace(_segment(span, is_cut=at >= len(kept)), length=spans[at].length))
    return segments


def _as_one_token(text: str) -> list[Any]:
    return [text]


def _decoded(span: Any, tokenizer: Any) -> Any:
    """A span with the text of its ids, which has no blank that only the tokenizer writes."""
    added = set(getattr(tokenizer, "added_ids", {}).values())
    if isinstance(span, MediaSpan) or added & set(span.ids):
        return span
    return replace(span, ids=(tokenizer.decode(span.ids),))


def _text_of(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of ids, which may begin with an added token."""
    is_added = ids[:1] and ids[0] in set(getattr(tokenizer, "added_ids", {}).values())
    return special_name(tokenizer, ids[0]) + tokenizer.decode(ids[1:]) if is_added else tokenizer.decode(ids)


def _named(span: Any, tokenizer: Any) -> Any:
    """Replace special tokens that a template writes as ids by their names."""
    if isinstance(span, MediaSpan) or not any(isinstance(one, int) for one in span.ids):
        return span
    names: Any = tuple(special_name(tokenizer, one) if isinstance(one, int) else one for one in span.ids)
    return replace(span, ids=names)


def _segment(span: Span, is_cut: bool = False) -> Segment:
    if isinstance(span, MediaSpan):
        return Segment("", modality=span.modality, is_cut=is_cut)
    return Segment("".join(map(str, span.ids)), span.supervised, is_cut=is_cut)


def _divided(whole: Segment, kept: str) -> list[Segment]:
    """Divide a segment at the cut."""
    end = len(kept) if whole.text.startswith(kept) else 0
    pieces = [replace(whole, text=whole.text[:end]), replace(whole, text=whole.text[end:], is_cut=True)]
    return [piece for piece in pieces if piece.text]
