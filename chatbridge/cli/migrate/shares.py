"""How sources share the steps: sample_ratio, train_dataset_ratios, batch_size."""

from __future__ import annotations

from typing import Any

from chatbridge.cli.migrate.migration import Migration
from chatbridge.cli.migrate.prompts import is_first_stage


def share_rows(m: Migration, sources: dict[str, list[str]]) -> None:
    """Weights, batches and how conversations are mixed."""
    ratios = {
        name: m.value(f"run.train_dataset_ratios.{name}") or m.value(f"datasets.{name}.sample_ratio")
        for name in sources
    }
    is_mix = len(sources) > 1
    for name, own in sources.items():
        for key in (f"datasets.{name}.sample_ratio", f"run.train_dataset_ratios.{name}"):
            if m.has(key) and not is_mix:
                m.not_needed(key, "there is one source")
            elif m.has(key):
                share = m.value(key)
                share = share / len(own) if len(own) > 1 and isinstance(share, (int, float)) else share
                m.taken(key, ", ".join(m.set(f"data.sources.{one}.weight", share) for one in own))
    m.no_equal("run.train_dataset_ratios", "names a data set that the file does not have")
    if is_mix and any(value is not None for value in ratios.values()):
        m.implied.append((m.set("data.mix", "step"), "every step takes all its conversations from one source"))
    elif is_mix:
        for own in sources.values():
            for one in own:
                m.target.set(f"data.sources.{one}.weight", "size")
        m.implied.append(("data.sources.<name>.weight: size", "without ratios LAVIS joins its data sets"))
    _batches(m, sources, is_mix)
    if m.family.is_minigpt4 and is_first_stage(m):
        return
    if m.family.is_lavis:
        m.implied.append((m.set("data.template", "caption"), "the text follows the image, without roles"))


def _batches(m: Migration, sources: dict[str, list[str]], is_mix: bool) -> None:
    """batch_size of each data set, per GPU: one micro-batch if they are equal, else the batch of each source."""
    sizes = {name: size for name in sources if _is_whole(size := m.value(f"datasets.{name}.batch_size"))}
    for name in sources.keys() - sizes.keys():
        m.no_equal(f"datasets.{name}.batch_size", "expected a whole number of at least 1; set run.micro_batch")
    if not sizes:
        return
    if len(set(sizes.values())) == 1 or not is_mix:
        here = m.set("run.micro_batch", next(iter(sizes.values())))
        for name in sizes:
            m.taken(f"datasets.{name}.batch_size", here)
        return
    m.target.set("data.mix", "step")
    m.target.set("run.micro_batch", max(sizes.values()))
    for name, size in sizes.items():
        here = ", ".join(m.set(f"data.sources.{one}.batch", size * m.ranks * m.accumulate) for one in sources[name])
        parts = f"{size} x {m.ranks} (--ranks)" + (f" x {m.accumulate} (accumulate)" if m.accumulate > 1 else "")
        note = f"over all ranks of a step: {parts}; it divides by ranks x run.accumulate"
        m.changed(f"datasets.{name}.batch_size", here, note)


def _is_whole(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0
