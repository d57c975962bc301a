"""Whether the sequences of a run fit into its language model, measured before it starts. No media file is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.conversation.layout import Layout
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.order.mixture import Mixture

SAMPLE = 100  # samples of each source, spread over it


@dataclass(frozen=True)
class SequenceLengths:
    """Of one source: how many samples were measured, are cut, cannot be laid out, and why the first of those cannot."""

    measured: int
    cut: int
    failed: int
    reason: str = ""

    def __str__(self) -> str:
        said = f"{self.cut} of {self.measured} measured samples are cut"
        return f"{said}, {self.failed} cannot be used (the first: {self.reason})" if self.failed else said


def measure_lengths(dataset: Dataset, layout: Layout, seed: int, count: int = SAMPLE) -> SequenceLengths:
    """Measured on samples spread over the source evenly."""
    size = len(dataset)
    indices = range(size) if size <= count else [(2 * at + 1) * size // (2 * count) for at in range(count)]
    cut, reasons = 0, []
    for index in indices:
        try:
            cut += layout.row(
                dataset.record(index, seeds.stream(seed, f"plan/{dataset.name}", index)).conversation
            ).is_cut
        except (MediaError, DataError, ValueError) as error:
            reasons.append(str(error))
    return SequenceLengths(len(indices), cut, len(reasons), reasons[0] if reasons else "")


def length_lines(layout: Layout, mixture: Mixture[Dataset], seed: int) -> Iterator[str]:
    """What a plan says about the longest sequence and about the samples that do not fit; shards that would have to be
    fetched first are not measured."""
    limit, context = layout.limit, layout.context_length
    if limit is None:
        yield "sequences have no longest length: neither data.max_tokens nor the language model gives one"
        return
    if layout.max_tokens is not None and limit < layout.max_tokens:
        yield f"data.max_tokens is {layout.max_tokens}, more than the context of the language model ({context}) allows"
    remote = [name for name, one in mixture.sources.items() if getattr(one.config, "is_remote", False)]
    found = {name: measure_lengths(one, layout, seed) for name, one in mixture.sources.items() if name not in remote}
    wrong = {name: one for name, one in found.items() if one.cut or one.failed}
    measured = sum(one.measured for one in found.values())
    if not wrong:
        yield f"{measured:,} measured samples: none is longer than {limit:,} tokens ({layout.limit_name})"
    for name, one in wrong.items():
        yield f"{name}: at most {limit:,} tokens ({layout.limit_name}): {one}"
    if remote:
        yield f"not measured, because their shards are remote: {', '.join(remote)}"
