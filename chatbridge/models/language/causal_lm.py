"""Any Hugging Face causal language model in a folder: Llama, Vicuna and the like."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.types import Segments
from chatbridge.config.constraints import NameIn, missing_path
from chatbridge.conversation.attention import attention_arguments, obstacle
from chatbridge.conversation.stop_strings import RowStops, Stops, stops_of_rows
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.models.chat_template import chat_template_problems
from chatbridge.models.hub_cache import folder_problems, settle
from chatbridge.models.language import _eight_bit
from chatbridge.models.language._hooks import move_hooks
from chatbridge.models.language._layers import decoder_layers
from chatbridge.models.language._sampling import penalties
from chatbridge.models.language._sizes import other_sizes
from chatbridge.models.language.base import (
    LANGUAGES,
    GenerateOptions,
    LanguageConfig,
    LanguageModel,
    Show,
    without_stop,
)
from chatbridge.models.language.cache import Cache, KeysAndValues, Reread
from chatbridge.models.parts import LoadNotes, State
from chatbridge.models.pretrained_folder import read_folder, removed

Attention = Literal["sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"]
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma 2; RecurrentGemma; xLSTM
FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}  # -> its package


@LANGUAGES.register("causal_lm")
class CausalLM(LanguageModel):
    """Wraps transformers' AutoModelForCausalLM; below `lm.` the names are transformers' own."""

    @dataclass(frozen=True, kw_only=True)
    class Config(LanguageConfig):
        # folder as `save_pretrained` writes it (config.json, weights, tokenizer), or an owner/name in the local cache
        weights: Path | None = None
        tokenizer: Path | None = None  # folder of the tokenizer; none = the one of the weights
        template: str | None = None  # conversation template this model was trained with
        chat_template: Path | None = None  # jinja file in place of the tokenizer's own, for `template: hf_chat`
        # Sizes as in a config.json. Without weights: of a random model, or of one that is only planned (meta device).
        # Beside weights: what their config.json must say, so that a 7B folder is not taken for a 13B one.
        architecture: dict[str, Any] = field(default_factory=dict)
        # How attention is computed; none = the choice of transformers, which is sdpa where the model has it. Packed
        # conversations need one that keeps them apart: see conversation/attention.py
        attention: Attention | None = None
        # Weights in 8 bit (LLM.int8) where bitsandbytes runs; elsewhere a line says why not. Frozen models only
        low_resource: bool = False

        def __post_init__(self) -> None:
            settle(self, "weights", "tokenizer")

        @property
        def context_length(self) -> int | None:
            try:
                return _context_length(_architecture(self))
            except ValueError:  # a config.json that cannot be read: building the model says why
                return None

        def problems(self) -> Iterator[str | Problem]:
            if self.weights is None and not self.architecture:
                yield "give weights (a folder) or architecture (sizes of a random model)"
            yield from folder_problems("weights", self.weights)
            missing = missing_path(self.tokenizer, "folder") if self.tokenizer is not None else None
            if missing is not None:
                yield replace(missing, path="tokenizer")
            unknown = NameIn(TEMPLATES).check(self.template) if self.template is not None else None
            if unknown is not None:
                yield replace(unknown, path="template")
            yield from chat_template_problems(self.chat_template, self.template)
            if self.attention in FLASH and find_spec(FLASH[self.attention]) is None:
                hint = f"install {FLASH[self.attention]}, or set attention to sdpa or flex_attention"
                yield Problem("attention", f"{self.attention} needs the package {FLASH[self.attention]}", hint=hint)
            if self.weights is not None and (self.weights / "config.json").is_file() and self.architecture:
                yield from other_sizes(self.weights / "config.json", self.architecture)

    config: CausalLM.Config

    def __init__(self, config: CausalLM.Config) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.config = config
        settings = _architecture(config)
        with (
            torch.device("meta") if config.weights is not None else nullcontext()
        ):  # the weights of a folder come with `load`; nothing is drawn for them before
            self.lm: Any = AutoModelForCausalLM.from_config(settings, **self._attention)

    @property
    def _attention(self) -> dict[str, str]:
        return {} if self.config.attention is None else {"attn_implementation": self.config.attention}

    @property
    def width(self) -> int:
        return self.lm.get_input_embeddings().embedding_dim

    @property
    def num_embeddings(self) -> int | None:
        return self.lm.get_input_embeddings().num_embeddings

    @property
    def vocabulary_modules(self) -> tuple[Any, Any]:
        return self.lm.get_input_embeddings(), self.lm.get_output_embeddings()

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.config.tokenizer or self.config.weights

    @property
    def max_positions(self) -> int | None:
        return _context_length(self.lm.config)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a text for this model."""
        ends = self.lm.config.eos_token_id
        return tuple(ends) if isinstance(ends, (list, tuple)) else () if ends is None else (ends,)

    def embed(self, ids: Tensor) -> Tensor:
        return self.lm.get_input_embeddings()(ids)

    @property
    def decoder_layers(self) -> nn.ModuleList:
        return decoder_layers(self.lm)

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Without segments, positions must count on by one in each row: transformers reads a jump as a packed row."""
        if cache is not None:
            return self._cached(embeds, positions, segments, cache)
        decoder = self.lm.base_model
        extra = attention_arguments(decoder, embeds, positions, segments)
        return decoder(inputs_embeds=embeds, position_ids=positions, use_cache=False, **extra).last_hidden_state

    def segments_obstacle(self, side_texts: bool = False) -> str | None:
        return obstacle(self.lm.base_model, side_texts)

    def _cached(self, embeds: Tensor, positions: Tensor | None, segments: Segments | None, cache: Cache) -> Tensor:
        if segments is not None:
            raise ValueError("a cache holds one causal conversation per row; read packed rows without a cache")
        portions = cache.portions(embeds)
        if len(portions) == 1:
            return self._read(embeds, positions, cache)
        return torch.cat([self._read(portion, None, cache) for portion in portions], 1)

    def _read(self, embeds: Tensor, positions: Tensor | None, cache: Cache) -> Tensor:
        store, num_new = cache.store, embeds.shape[1]
        if isinstance(store, KeysAndValues) and self._cache_argument:
            positions = cache.positions(num_new, embeds.device) if positions is None else positions
            given = {"position_ids": positions, self._cache_argument: store.past, "use_cache": True}
            states = self.lm.base_model(inputs_embeds=embeds, attention_mask=cache.columns(num_new), **given)
        else:
            assert isinstance(store, Reread)
            states = self.lm.base_model(inputs_embeds=store.grown(embeds), use_cache=False)
        cache.advance(embeds)
        return states.last_hidden_state[:, -num_new:]

    def new_cache(self, mask: Tensor | None = None) -> Cache:
        return Cache(KeysAndValues(self.lm.config) if self._cache_argument else Reread(), mask)

    @cached_property
    def _cache_argument(self) -> str | None:
        """What its forward calls the cache; None when it takes none that a caller could hold."""
        taken = inspect.signature(type(self.lm.base_model).forward).parameters
        return next((name for name in ("past_key_values", "cache_params") if name in taken), None)

    def logits(self, hidden: Tensor) -> Tensor:
        """As transformers says them: families differ in how they scale what comes out of the head."""
        settings, logits = self.lm.config, self.lm.get_output_embeddings()(hidden)
        factor = getattr(self.lm, "logit_scale", getattr(settings, "lm_head_multiplier", None))  # Cohere; Falcon-H1
        scaling = getattr(settings, "logits_scaling", None)
        if scaling is not None:  # Granite and MiniCPM3 divide by it, HyperCLOVA X multiplies
            factor = scaling if settings.model_type.startswith("hyperclovax") else 1.0 / scaling
        logits = logits if factor is None else factor * logits
        cap = next((found for name in CAPS if (found := getattr(settings, name, None)) is not None), None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @torch.no_grad()
    def beams(
        self, embeds: Tensor, mask: Tensor, options: GenerateOptions, stops: RowStops = (), show: Show | None = None
    ) -> list[list[int]]:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        of_rows = stops_of_rows(stops, len(embeds))
        watched = self.lm.register_forward_pre_hook(_shown(show), with_kwargs=True) if show else nullcontext()
        with _seeded(options.seed, embeds.device), _without_defaults(self.lm), watched:
            rows = self.lm.generate(
                inputs_embeds=embeds,
                attention_mask=mask.long(),
                generation_config=self._generation_config(options),
                stopping_criteria=StoppingCriteriaList([_BeamStop(of_rows)]),
                logits_processor=LogitsProcessorList(penalties(options)),
            )
        return [without_stop(row, self.end_ids, one.ids) for row, one in zip(rows.tolist(), of_rows, strict=True)]

    def _generation_config(self, options: GenerateOptions) -> Any:
        from transformers import GenerationConfig

        drawn = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
        return GenerationConfig(
            max_new_tokens=options.max_new_tokens,
            min_new_tokens=options.min_new_tokens or None,
            num_beams=options.num_beams,
            do_sample=options.sample,
            length_penalty=options.length_penalty,
            eos_token_id=list(self.end_ids) or None,
            pad_token_id=self.end_ids[0] if self.end_ids else 0,
            bos_token_id=self.lm.config.bos_token_id,
            use_cache=True,
            **(drawn if options.sample else {}),
        )

    def files(self) -> list[tuple[Path, tuple[str, ...] | None]]:
        return []  # a whole folder, which `load` reads

    @staticmethod
    def convert(state: State) -> State:
        """Names of the language model inside released whole-model checkpoints."""
        return {re.sub(r"^llama_model\.", "lm.", key): value for key, value in state.items()}

    def fit(self, state: State, notes: LoadNotes) -> State:
        dropped = [key for key in state if is_buffer(key)]
        notes.dropped |= dict.fromkeys(dropped, "buffer that follows from the sizes")
        return {key: value for key, value in state.items() if key not in notes.dropped}

    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Replace the empty model by the one in the folder; every tensor of it must be there.

        The files are mapped, not read: on a CPU, weights that stay in the dtype of the files take no memory of their
        own, and ranks share them. Others are converted one by one, straight from the files; what trains to fp32.
        """
        if self.config.weights is None:
            return "language: random weights"
        remark, extra = self._eight_bit(device)
        trains = {name for name, parameter in self.lm.named_parameters() if parameter.requires_grad}
        built = self.lm
        self.lm, prefix = _from_folder(self.config.weights, dtype if extra else "auto", {**extra, **self._attention})
        move_hooks(built, self.lm)
        for name, parameter in self.lm.named_parameters():
            parameter.requires_grad_(name in trains)
            if not extra:
                parameter.data = parameter.data.to(device, torch.float32 if name in trains else dtype)
        if not extra:
            self.lm = self.lm.to(device)  # buffers
        self.lm.train(self.training)
        return f"language: {len(self.lm.state_dict())} tensors from {self.config.weights}{removed(prefix)}{remark}"

    def _eight_bit(self, device: torch.device) -> tuple[str, dict[str, Any]]:
        """What `load` says about it, and how it reads the folder.

        raises   ValueError when parts of the model shall train
        """
        if not self.config.low_resource:
            return "", {}
        if any(parameter.requires_grad for parameter in self.lm.parameters()):
            raise ValueError("language: low_resource keeps the weights in 8 bit, where they cannot train; set it false")
        reason = _eight_bit.obstacle(device)
        if reason is not None:
            return f"; low_resource is NOT in effect: {reason}", {}
        return ", in 8 bit", _eight_bit.settings(device)


def is_buffer(name: str) -> bool:
    """What old files hold beside the weights and follows from the sizes: rotary frequencies, GPT-2's causal masks."""
    return re.search(r"(rotary_emb\.inv_freq|\.attn\.(bias|masked_bias))$", name) is not None


class _BeamStop:
    """Stops each beam by itself once its new ids are an answer (a transformers StoppingCriteria)."""

    def __init__(self, stops: Sequence[Stops]) -> None:
        self.stops = stops

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        beams = len(input_ids) // len(self.stops)
        rows = input_ids.tolist()
        ends = [bool(ids) and self.stops[at // beams].end(ids) is not None for at, ids in enumerate(rows)]
        return torch.tensor(ends, device=input_ids.device)


def _shown(show: Show) -> Any:
    """A hook of the language model that tells the positions of every step of a generation."""
    num_read = 0

    def hook(module: Any, given: Any, named: Mapping[str, Any]) -> None:
        nonlocal num_read
        rows = named["inputs_embeds"] if named.get("inputs_embeds") is not None else named["input_ids"]
        columns = torch.arange(num_read, num_read + rows.shape[1], device=rows.device)
        num_read += rows.shape[1]
        mask, positions = named.get("attention_mask"), named.get("position_ids")
        if positions is None:  # families that count positions themselves
            positions = columns[None] if mask is None else (mask.cumsum(1) - 1).clamp(min=0)[:, -rows.shape[1] :]
        show(positions.expand(len(rows), -1))

    return hook


@contextmanager
def _without_defaults(lm: Any) -> Iterator[None]:
    """The folder's generation_config.json changes nothing: transformers takes from it what the options do not set, a
    repetition penalty for example, which the loop of decode.py does not."""
    from transformers import GenerationConfig

    kept, lm.generation_config = lm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = kept


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """transformers draws from torch's global state: seed it for the draws and put it back afterwards."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _context_length(settings: Any) -> int | None:
    """None for families without a limit (Mamba)."""
    return getattr(settings, "max_position_embeddings", None)


def _architecture(config: CausalLM.Config) -> Any:
    from transformers import AutoConfig

    if config.weights is None:
        return AutoConfig.for_model(**{"model_type": "llama", **config.architecture})
    try:
        return AutoConfig.from_pretrained(str(config.weights), local_files_only=True)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ValueError(f"{config.weights}: config.json cannot be read: {error}") from None


def _from_folder(folder: Path, dtype: torch.dtype | str, extra: Mapping[str, Any]) -> tuple[Any, str]:
    """The model, and the prefix of all names that was removed ("": none).

    raises   ValueError when weights are missing, truncated, or not those of the model its config.json describes
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if os.environ.get("LOCAL_RANK", "0") != "0" or not sys.stderr.isatty():
        logging.disable_progress_bar()  # one bar, and none in a log file
    try:
        lm, found, prefix = read_folder(AutoModelForCausalLM, folder, dtype=dtype, **extra)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder}: the language model cannot be read: {reason}") from None
    found["unexpected"] = [name for name in found["unexpected"] if not is_buffer(name)]
    wrong = [f"  {kind}: {', '.join(names[:8])} ({len(names)} in all)" for kind, names in found.items() if names]
    if wrong:
        raise ValueError(f"{folder} does not fill the model its config.json describes:\n" + "\n".join(wrong))
    return lm, prefix
