"""From a conversation to a token sequence with supervised points and media slots. Runs in loader workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property

from chatbridge.conversation.answer_parts import split_captions, trimmed
from chatbridge.conversation.fitting import Limit, is_supervised, size
from chatbridge.conversation.messages import Conversation, Drawing, Message, Part, Text
from chatbridge.conversation.spans import BranchSpan, Encode, MediaSpan, Span, TextSpan
from chatbridge.conversation.stop_strings import Stops
from chatbridge.conversation.templates.base import Template
from chatbridge.conversation.token_sequence import MediaSlot, TokenSequence, numbered
from chatbridge.conversation.tokenizer import TokenizerLike

PROBES = ("a", "1")  # answers with different ends
STOP_NEIGHBOURS = ("", "a", "1", ".", "?", "!", ")", '"', "a\n")  # texts before a stop string at the end of an answer


class Layout:
    """Training sequences and prompts of one template, tokenizer and set of media lengths.

    media_lengths  modality -> positions of one item, the slots of its fusion
    slot_ids        modality -> the placeholder id of these positions, where the fusion names one; else it is the
                    template's, or the padding id
    max_tokens      most tokens of a sequence, media counted, the beginning-of-sequence token not; None: no limit
    context_length  most tokens the language model takes, the beginning-of-sequence token included; None: not known. No
                    sequence is longer, whatever max_tokens allows; side texts count, as they take memory

    The collate pads sequences on the right, so the beginning-of-sequence token is visible in each of them. (The
    reference padded stage 2 on the left and put that token before the padding, where its mask hid it in all sequences
    but the longest; single-sample generation always saw it.)
    """

    def __init__(
        self,
        template: Template,
        tokenizer: TokenizerLike,
        media_lengths: Mapping[str, int],
        max_tokens: int | None = None,
        context_length: int | None = None,
        slot_ids: Mapping[str, int] | None = None,
    ):
        self.template = template.bound(tokenizer)
        self.tokenizer = tokenizer
        self.media_lengths = dict(media_lengths)
        self.slot_ids = {**self.template.slot_ids, **(slot_ids or {})}
        self.max_tokens = max_tokens
        self.context_length = context_length
        self._encode = SegmentCache(tokenizer.encode)
        added = getattr(tokenizer, "added_ids", {})  # of model.added_tokens, by name
        self._specials = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, **added}
        self._further_stops: tuple[str, ...] = ()

    def stopping_at(self, strings: Sequence[str]) -> Layout:
        """The same layout for reading answers that end at these strings too; prompts have nothing to do with them."""
        if not strings:
            return self
        made = copy(self)
        made.__dict__.pop("stops", None)  # the cached property of this layout
        made._further_stops = (*self._further_stops, *strings)
        return made

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings that end an answer: those of the template, and further ones."""
        return (*self.template.stops, *self._further_stops)

    def sharing(self, wrap: Callable[[Encode], Encode]) -> Layout:
        """The same layout, whose texts are tokenized by `wrap(encode)`, which gives the same ids."""
        made = copy(self)
        made._encode = SegmentCache(wrap(self.tokenizer.encode))
        return made

    @property
    def limit(self) -> int | None:
        """Most tokens of a sequence, without the one that the layout adds at its start."""
        context = None if self.context_length is None else self.context_length - self._num_own
        return min((one for one in (self.max_tokens, context) if one is not None), default=None)

    @property
    def limit_name(self) -> str:
        """The source of `limit`, for messages."""
        return "max_tokens" if self.limit == self.max_tokens else "the context of the language model"

    def training_sequence(self, conversation: Conversation) -> TokenSequence:
        """The token sequence of a conversation in training, cut to `limit`.

        raises   ValueError when nothing is supervised, or nothing supervised fits, or a drawing has no image
        """
        _check_drawn(conversation)
        spans = self.template.spans(conversation, self._encode, self.media_lengths, specials=self._specials)
        if not any(is_supervised(span) for span in spans):
            raise ValueError("no token of this conversation is supervised: no turn of the assistant has content")
        kept = self.cut(spans)
        sequence = self._sequence_of(kept)
        sequence.cut_tokens = size(spans) - size(kept) + sum(_num_cut(span) for span in kept)
        sequence.num_cut = int(sequence.cut_tokens > 0)
        sequence.cut_turns = 0 if len(kept) == len(spans) else len(conversation) - 1 - kept[-1].turn
        sequence.num_empty = sum(message.is_empty_answer for message in conversation)
        return sequence

    def cut(self, spans: Sequence[Span]) -> Sequence[Span]:
        """The spans that fit `limit`. raises ValueError when nothing supervised fits"""
        if self.limit is None:
            return spans
        context = None if self.context_length is None else self.context_length - self._num_own
        return self.template.fit(spans, Limit(self.limit, self.limit_name, context))

    def training_length(self, conversation: Conversation) -> int:
        """The number of tokens of `training_sequence`, without building it: exact unless it is cut, then at least that.

        raises   ValueError for a conversation that the template cannot write
        """
        spans = self.template.spans(conversation, self._encode, self.media_lengths, specials=self._specials)
        whole = size(spans)
        if self.limit is None or whole <= self.limit:
            return whole + self._num_own
        return (size(self.cut(spans)) if self.template.may_exceed_limit else self.limit) + self._num_own

    @property
    def longest(self) -> int | None:
        """Most tokens of a training sequence, the beginning-of-sequence token included; None: there is no limit. A
        template that completes an image at the limit may exceed it by more than the one image that is counted here."""
        if self.limit is None:
            return None
        one_item = max(self.media_lengths.values(), default=0) if self.template.may_exceed_limit else 0
        return self.limit + self._num_own + one_item

    @property
    def _num_own(self) -> int:
        """Tokens that the layout adds: the beginning-of-sequence token, unless the template writes it."""
        return 0 if self.template.writes_bos or self.tokenizer.bos_id is None else 1

    def prompt(self, conversation: Conversation) -> TokenSequence:
        """The token sequence that asks for an answer: it ends with the opening of the assistant's turn; nothing is
        supervised, nothing is cut. Side texts are left out, as the answer does not see them.

        raises   ValueError when the last turn is the assistant's
        """
        if conversation and conversation[-1].role == "assistant":
            raise ValueError(
                "the last turn is an answer, expected a turn of the user; remove the last answer of the assistant"
            )
        spans = self.template.spans(conversation, self._encode, self.media_lengths, True, self._specials)
        sequence = self._sequence_of([span for span in spans if not isinstance(span, BranchSpan)])
        sequence.predict_at, sequence.target = [], []
        return sequence

    def continuations(
        self, conversation: Conversation, answers: Sequence[str], with_end: bool = False
    ) -> list[tuple[int, ...]]:
        """The ids of answers as training supervises them, which continue the ids of `prompt(conversation)`.

        with_end  also what ends the turn: a stop string, the end-of-sequence token
        raises    ValueError for an answer without text
        """
        found = [self._supervised_ids(conversation, answer) for answer in answers]
        for answer, ids in zip(answers, found, strict=True):
            if not answer.strip() or not ids:
                raise ValueError(f"the answer {answer!r} has no tokens")
        if with_end:
            return found
        # what ends the turn is common to all answers; a token of both, such as ".\n", belongs to the answer
        probes = [self._supervised_ids(conversation, answer) for answer in PROBES]
        num_end = [min(_num_shared_at_end(ids, probe) for probe in probes) for ids in found]
        return [ids[: max(len(ids) - num, 1)] for ids, num in zip(found, num_end, strict=True)]

    def _supervised_ids(self, conversation: Conversation, answer: str) -> tuple[int, ...]:
        """All supervised ids of a turn of the assistant that follows a conversation."""
        whole = (*conversation, Message("assistant", (Text(answer),), supervised=True))
        # by the base class: the labels of a release, and a limit of rounds, are settings of training
        spans = Template.spans(self.template, whole, self._encode, self.media_lengths, False, self._specials)
        last = (span for span in spans if isinstance(span, TextSpan) and span.turn == len(conversation))
        return tuple(one for span in last if span.supervised for one in span.ids)

    def media(self, modality: str) -> TokenSequence:
        """The slots of one media item by themselves, with which an answer continues after an image was drawn."""
        return self._sequence_of([MediaSpan(modality, 0, self.media_lengths[modality])], has_bos=False)

    def finish(self, ids: Sequence[int]) -> str:
        """Generated ids -> the text of the answer, up to the first stop string, without blanks around it."""
        return Message("assistant", self.parts(ids)).text

    def parts(self, ids: Sequence[int], is_whole: bool = True) -> tuple[Part, ...]:
        """Generated ids -> the parts of the answer up to the first stop string: text, and drawings with their captions.

        is_whole   False while the answer grows: a caption that is not closed yet is left out. In a whole answer it is a
                   drawing, unless it is empty
        """
        found: list[Part] = []
        for is_caption, is_closed, piece in split_captions(ids, self.template.drawing_ids):
            text, is_over = self._until_stop(piece)
            if not is_caption:
                found.append(Text(text))
            elif is_closed or (text.strip() and (is_over or is_whole)):
                found.append(Drawing(text.strip()))
            if is_over:
                break
        return trimmed(found)

    def has_stop(self, ids: Sequence[int]) -> bool:
        """Whether the text of generated ids contains a stop string."""
        return self._until_stop(ids)[1]

    def _until_stop(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text before the first stop string, and whether there was one."""
        text = self.template.answer_text(self.tokenizer.decode(list(ids)))
        ends = [text.find(stop) for stop in self.stop_strings if stop in text]
        return text[: min(ends, default=len(text))], bool(ends)

    @cached_property
    def stops(self) -> Stops:
        """What ends an answer: id sequences, and the stop strings as text, whatever tokens they consist of."""
        return Stops(self.stop_ids, self.stop_strings, self.tokenizer.decode)

    @cached_property
    def stop_ids(self) -> tuple[tuple[int, ...], ...]:
        """Id sequences that end generation: the stop strings as they tokenise after common neighbours, and the
        end-of-sequence id. Other tokenisations are found in the text; see `stops`."""
        found = [tail for stop in self.template.stops for tail in _tails(stop, self.tokenizer.encode)]
        found += self.template.stop_ids
        if self.tokenizer.eos_id is not None:
            found.append((self.tokenizer.eos_id,))
        shortest = [ids for ids in found if not any(other != ids and ids[-len(other) :] == other for other in found)]
        return tuple(dict.fromkeys(shortest))

    def _sequence_of(self, spans: Sequence[Span], has_bos: bool = True) -> TokenSequence:
        bos = None if self.template.writes_bos or not has_bos else self.tokenizer.bos_id
        sequence = TokenSequence(ids=[] if bos is None else [bos])
        before = len(sequence.ids) - 1  # last position of the base
        branches: list[range] = []
        for span in spans:
            start = len(sequence.ids)
            if isinstance(span, MediaSpan):
                sequence.media_slots.append(MediaSlot(span.modality, span.slot, start, span.length))
                sequence.ids.extend([self.slot_ids.get(span.modality, self.tokenizer.pad_id)] * span.length)
            else:
                sequence.ids.extend(span.ids[: span.length])
                if span.supervised:
                    _supervise(sequence, start, before, span.ids[: max(span.length, 1)])
            if isinstance(span, BranchSpan):
                branches.append(range(start, len(sequence.ids)))
            elif span.length:
                before = len(sequence.ids) - 1
        sequence.positions, sequence.segments = numbered(len(sequence.ids), branches)
        sequence.cumulative = bool(branches) and self.template.side_texts == "cumulative"
        return sequence


def _supervise(sequence: TokenSequence, start: int, before: int, ids: Sequence[int]) -> None:
    """Supervise `ids`, which begin at `start`; the first one is predicted from `before`, or by nothing (-1)."""
    points = list(zip([before, *range(start, start + len(ids) - 1)], ids, strict=False))
    for position, target in points if before >= 0 else points[1:]:
        sequence.predict_at.append(position)
        sequence.target.append(target)


class SegmentCache:
    """Remembers the ids of text segments: openings, prompts and frequent answers are tokenised once per worker."""

    def __init__(self, encode: Callable[[str], Sequence[int]], max_entries: int = 16384):
        self._encode = encode
        self._max_entries = max_entries
        self._ids: dict[str, tuple[int, ...]] = {}

    def __call__(self, text: str) -> tuple[int, ...]:
        ids = self._ids.get(text)
        if ids is None:
            if len(self._ids) >= self._max_entries:
                self._ids.clear()
            ids = self._ids[text] = tuple(self._encode(text))
        return ids


def _check_drawn(conversation: Conversation) -> None:
    """raises ValueError for a drawing without an image, which the rest of the conversation refers to"""
    for number, message in enumerate(conversation):
        for drawing in message.drawings_without_image:
            raise ValueError(
                f"message {number}: the drawing {drawing.caption!r} has no image, and training reads the image; "
                "add its image (`path` in a file of records), or leave the record out"
            )


def _num_shared_at_end(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of ids that both end with."""
    pairs = enumerate(zip(reversed(one), reversed(other), strict=False))
    return next((at for at, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))


def _num_cut(span: Span) -> int:
    return span.cut if isinstance(span, TextSpan) else 0


def _tails(stop: str, encode: Callable[[str], Sequence[int]]) -> list[tuple[int, ...]]:
    """The ids of `stop` after different neighbours, with the neighbour itself where both merge into one token."""
    tails = []
    for before in STOP_NEIGHBOURS:
        head, whole = list(encode(before)), list(encode(before + stop))
        merged = next((i for i, (one, other) in enumerate(zip(head, whole, strict=False)) if one != other), len(head))
        tails.append(tuple(whole[merged:]))
    return [tail for tail in tails if tail]
