"""Measures before a run starts whether its sequences fit into the language model. No media file is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.conversation.layout import Layout
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.order.mixture import Mixture

NUM_MEASURED = 100  # samples per source, evenly spaced


@dataclass(frozen=True)
class SequenceLengths:
    """Numbers of samples of one source that were measured, are truncated or unusable, and the first reason."""

    measured: int
    cut: int
    failed: int
    reason: str = ""

    def __str__(self) -> str:
        text = f"{self.cut} of {self.measured} measured samples are truncated"
        return f"{text}, {self.failed} are unusable (the first: {self.reason})" if self.failed else text


def measure_lengths(dataset: Dataset, layout: Layout, seed: int, count: int = NUM_MEASURED) -> SequenceLengths:
    """Lengths of `count` evenly spaced samples of a source."""
    size = len(dataset)
    indices = range(size) if size <= count else [(2 * at + 1) * size // (2 * count) for at in range(count)]
    cut, reasons = 0, []
    for index in indices:
        try:
            cut += layout.training_sequence(
                dataset.record(index, seeds.stream(seed, f"plan/{dataset.name}", index)).conversation
            ).is_cut
        except (MediaError, DataError, ValueError) as error:
            reasons.append(str(error))
    return SequenceLengths(len(indices), cut, len(reasons), reasons[0] if reasons else "")


def length_lines(layout: Layout, mixture: Mixture[Dataset], seed: int) -> Iterator[str]:
    """Lines of a plan about the longest sequence and the samples that do not fit. Remote shards are not measured."""
    limit, context = layout.limit, layout.context_length
    if limit is None:
        yield "sequences have no maximum length: neither data.max_tokens nor the language model sets one"
        return
    if layout.max_tokens is not None and limit < layout.max_tokens:
        yield f"data.max_tokens is {layout.max_tokens}, above the context length of the language model, {context}"
    remote = [name for name, one in mixture.sources.items() if getattr(one.config, "is_remote", False)]
    found = {name: measure_lengths(one, layout, seed) for name, one in mixture.sources.items() if name not in remote}
    wrong = {name: one for name, one in found.items() if one.cut or one.failed}
    measured = sum(one.measured for one in found.values())
    if not wrong:
        yield f"{measured:,} measured samples: none is longer than {limit:,} tokens ({layout.limit_name})"
    for name, one in wrong.items():
        yield f"{name}: at most {limit:,} tokens ({layout.limit_name}): {one}"
    if remote:
        yield f"not measured (remote shards): {', '.join(remote)}"
