"""Beam search by transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from chatbridge.conversation.stop_strings import Stops
from chatbridge.models.language._token_sampling import penalties
from chatbridge.models.language.base import Between, GenerateOptions, Show, without_stop


@torch.no_grad()
def beam_search(
    lm: Any,
    end_ids: tuple[int, ...],
    embeds: Tensor,
    mask: Tensor,
    options: GenerateOptions,
    stops: Sequence[Stops],
    show: Show | None,
    between: Between | None = None,
) -> list[list[int]]:
    """The best beam of each prompt; see LanguageModel.beam_search.

    lm       a causal language model of transformers
    embeds   float[B, L, D], padded on the left
    mask     bool[B, L], False = padding
    returns  new ids per prompt, without stop sequence, end token and padding
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList

    seeded, stopped = _Seeded(options.seed, embeds.device), _BeamStop(stops)
    interlude = _interlude(between, seeded, stopped) if between else None
    interrupted = lm.register_forward_pre_hook(interlude) if interlude else nullcontext()  # before `show`
    watched = lm.register_forward_pre_hook(_shown(show), with_kwargs=True) if show else nullcontext()
    with seeded, _without_defaults(lm), interrupted, watched:
        rows = lm.generate(
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            generation_config=_generation_config(options, end_ids, lm.config.bos_token_id),
            stopping_criteria=StoppingCriteriaList([stopped]),
            logits_processor=LogitsProcessorList(penalties(options)),
            synced_gpus=False,  # ranks generate independently, also when layers are sharded: see Parallel.gathered
        )
    return [without_stop(row, end_ids, one.ids) for row, one in zip(rows.tolist(), stops, strict=True)]


def _generation_config(options: GenerateOptions, end_ids: tuple[int, ...], bos_id: int | None) -> Any:
    from transformers import GenerationConfig

    sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    return GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=options.min_new_tokens or None,
        num_beams=options.num_beams,
        do_sample=options.sample,
        length_penalty=options.length_penalty,
        eos_token_id=list(end_ids) or None,
        pad_token_id=end_ids[0] if end_ids else 0,
        bos_token_id=bos_id,
        use_cache=True,
        **(sampling if options.sample else {}),
    )


class _BeamStop:
    """Stops each beam on its own once its new ids contain a stop sequence (a transformers StoppingCriteria).

    is_over   whether all beams stop where they are
    """

    def __init__(self, stops: Sequence[Stops]) -> None:
        self.stops, self.is_over = stops, False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.is_over:
            return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        beams = len(input_ids) // len(self.stops)
        rows = input_ids.tolist()
        ends = [bool(ids) and self.stops[at // beams].end(ids) is not None for at, ids in enumerate(rows)]
        return torch.tensor(ends, device=input_ids.device)


def _interlude(between: Between, seeded: _Seeded, stopped: _BeamStop) -> Any:
    """A forward pre-hook that lets others work before every step."""
    is_inside = False

    def hook(module: Any, args: Any) -> None:
        nonlocal is_inside
        if is_inside:
            raise RuntimeError("a beam search cannot run within another one of the same model")
        is_inside = True
        try:
            with seeded.paused():
                stopped.is_over |= bool(between())
        finally:
            is_inside = False

    return hook


def _shown(show: Show) -> Any:
    """A forward pre-hook that calls `show` with the positions of every generation step."""
    num_read = 0

    def hook(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        nonlocal num_read
        rows = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
        columns = torch.arange(num_read, num_read + rows.shape[1], device=rows.device)
        num_read += rows.shape[1]
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if positions is None:  # some families count positions themselves
            positions = columns[None] if mask is None else (mask.cumsum(1) - 1).clamp(min=0)[:, -rows.shape[1] :]
        show(positions.expand(len(rows), -1))

    return hook


@contextmanager
def _without_defaults(lm: Any) -> Iterator[None]:
    """Ignore the folder's generation_config.json: transformers would fill unset options from it, for example a
    repetition penalty, which the loop in decode.py does not."""
    from transformers import GenerationConfig

    kept, lm.generation_config = lm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = kept


class _Seeded:
    """Seeds torch's global state, which transformers samples from, and restores it afterwards; None: leaves it.

    While it is paused, the state is that of before, which others may draw from.
    """

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self.seed, self.device = seed, device
        self._other: tuple[Tensor, ...] = ()

    def __enter__(self) -> None:
        if self.seed is not None:
            self._other = self._states()
            torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        if self.seed is not None:
            self._swap()

    @contextmanager
    def paused(self) -> Iterator[None]:
        if self.seed is None:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _states(self) -> tuple[Tensor, ...]:
        """Of the processor, and of the device."""
        own = (torch.get_rng_state(),)
        return (*own, torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else own

    def _swap(self) -> None:
        now = self._states()
        torch.set_rng_state(self._other[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self._other[1], self.device)
        self._other = now
