"""Causal language models of transformers from a Hugging Face folder: Llama, Vicuna and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.common.types import Segments
from chatbridge.config.constraints import NameIn, missing_path
from chatbridge.config.schema import OldName
from chatbridge.conversation import varlen_attention
from chatbridge.conversation.attention import attention_arguments, obstacle, step_mask, takes_step_masks
from chatbridge.conversation.stop_strings import BatchStops, stops_per_sequence
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.models.attention_setting import Attention, attention_problems
from chatbridge.models.chat_template import chat_template_problems, template_settings_problems
from chatbridge.models.component import LoadNotes, State
from chatbridge.models.hf_folder import architecture_problems, folder_problems, other_sizes, removed, resolve_cached_ids
from chatbridge.models.language._beam_search import beam_search
from chatbridge.models.language._cache_stores import KeyValueStore, RereadStore
from chatbridge.models.language._causal_lm_folder import (
    architecture,
    context_length,
    is_buffer,
    read_causal_lm,
    with_gradient_of_all_rows,
)
from chatbridge.models.language._gguf_file import gguf_problems
from chatbridge.models.language._hf_modules import cache_argument, decoder_layers, move_hooks, scaled_logits
from chatbridge.models.language._last_layer import only_at, skippable
from chatbridge.models.language._quantization import quantization, settle, store_in_int8
from chatbridge.models.language._sharded_files import load_outside_layers
from chatbridge.models.language.base import LANGUAGES, Between, GenerateOptions, LanguageConfig, LanguageModel, Show
from chatbridge.models.language.cache import Cache

LanguageAttention = Literal[Attention, "varlen"]


@LANGUAGES.register("causal_lm")
class CausalLM(LanguageModel):
    """A wrapper of transformers' AutoModelForCausalLM; state-dict names after `lm.` are those of transformers."""

    @dataclass(frozen=True, kw_only=True)
    class Config(LanguageConfig):
        # folder as `save_pretrained` writes it (config.json, weights, tokenizer), an owner/name in the local cache, or
        # a .gguf file, whose weights are dequantised
        weights: Path | None = None
        tokenizer: Path | None = None  # folder of the tokenizer; null: the folder of the weights
        template: str | None = None  # conversation template this model was trained with
        template_settings: dict[str, Any] = field(default_factory=dict)  # of the template, e.g. {labels: corrected}
        chat_template: Path | None = None  # jinja file instead of the tokenizer's own, for `template: hf_chat`
        # Sizes as in a config.json. Without weights: of a random model, or of one on the meta device. With weights:
        # values that their config.json must have, so that a 7B folder is not used for a 13B configuration
        architecture: dict[str, Any] = field(default_factory=dict)
        # Attention implementation; null: the default of transformers, which is sdpa if the model supports it. Packed
        # conversations (data.batching: packed) need one that separates them: see conversation/attention.py. varlen:
        # sdpa, and for packed ones a kernel without a mask (torch 2.10 or later; on a CPU conversation by conversation)
        attention: LanguageAttention | None = None
        # 8-bit weights (LLM.int8) if bitsandbytes runs, otherwise the log has the reason; only for frozen models, with
        # or without adapters
        load_in_8bit: Annotated[bool, OldName("low_resource")] = False
        load_in_4bit: bool = False  # 4-bit weights (NF4, double quantization) for QLoRA: frozen, adapters beside them
        # library of load_in_8bit. torchao: int8 per row of a weight, products in the dtype of the run, also on a CPU
        quantizer: Literal["bitsandbytes", "torchao"] = "bitsandbytes"

        def __post_init__(self) -> None:
            resolve_cached_ids(self, "weights", "tokenizer")

        @property
        def bits(self) -> int | None:
            """Bits of a stored weight, 8 or 4; None: those of its dtype."""
            return 8 if self.load_in_8bit else 4 if self.load_in_4bit else None

        @property
        def context_length(self) -> int | None:
            try:
                return context_length(architecture(self.weights, self.architecture))
            except ValueError:  # config.json cannot be read; building the model reports it
                return None

        def problems(self) -> Iterator[str | Problem]:
            if self.weights is None and not self.architecture:
                yield "give weights (a folder) or architecture (sizes of a random model)"
            is_file = self.weights is not None and is_gguf_name(self.weights)
            if is_file and self.weights is not None:
                yield from gguf_problems("weights", self.weights, self.architecture)
                yield from self._bits_problems()
            else:
                yield from folder_problems("weights", self.weights)
            yield from self._architecture_problems()
            missing = missing_path(self.tokenizer, "folder") if self.tokenizer is not None else None
            if missing is not None:
                yield replace(missing, path="tokenizer")
            unknown = NameIn(TEMPLATES).check(self.template) if self.template is not None else None
            if unknown is not None:
                yield replace(unknown, path="template")
            yield from chat_template_problems(self.chat_template, self.template)
            yield from template_settings_problems(self.template_settings, self.template)
            if self.attention != varlen_attention.NAME:
                yield from attention_problems(self.attention)
            elif not varlen_attention.has_kernel():
                message = f"varlen needs torch 2.10 or later, this is torch {torch.__version__}"
                yield Problem("attention", message, hint="set attention to sdpa")
            if self.load_in_8bit and self.load_in_4bit:
                yield Problem("load_in_4bit", "is set beside load_in_8bit", hint="keep one of the two")
            if self.quantizer == "torchao" and not self.load_in_8bit:
                yield Problem("quantizer", "torchao stores weights in 8 bit only", hint="set load_in_8bit: true")
            if self.weights is not None and (self.weights / "config.json").is_file() and self.architecture:
                yield from other_sizes(self.weights / "config.json", self.architecture)

        def _bits_problems(self) -> Iterator[Problem]:
            """bitsandbytes packs while transformers reads a folder, which it does not do for a GGUF file."""
            if self.bits is not None and self.quantizer == "bitsandbytes":
                key = "load_in_8bit" if self.load_in_8bit else "load_in_4bit"
                message = "is not available for a GGUF file, whose weights are dequantised when they are read"
                hint = (
                    "set quantizer: torchao with load_in_8bit, or write a folder: python -m chatbridge weights convert "
                    f"{self.weights} FOLDER"
                )
                yield Problem(key, message, hint=hint)

        def _architecture_problems(self) -> Iterator[Problem]:
            if not self.architecture:
                return
            found = list(architecture_problems(self.architecture, str(self.architecture.get("model_type", "llama"))))
            yield from found
            if self.weights is None and not found:
                try:
                    architecture(None, self.architecture)
                except ValueError as error:
                    yield Problem("architecture", str(error))

    config: CausalLM.Config

    def __init__(self, config: CausalLM.Config) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.config = config
        self._own_attention: str | None = config.attention
        settings = architecture(config.weights, config.architecture)
        # With a folder, `load` brings the values; until then the model needs no memory
        with torch.device("meta") if config.weights is not None else nullcontext():
            lm = AutoModelForCausalLM.from_config(settings, **self._attention)
        self.lm: Any = with_gradient_of_all_rows(lm)

    @property
    def _attention(self) -> dict[str, str]:
        if self._own_attention == varlen_attention.NAME:
            varlen_attention.register()
        return {} if self._own_attention is None else {"attn_implementation": self._own_attention}

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
    def head(self) -> nn.Module | None:
        return self.lm.get_output_embeddings()

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.config.tokenizer or self.config.weights

    @property
    def max_positions(self) -> int | None:
        return context_length(self.lm.config)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end-of-sequence ids of the model's configuration."""
        ends = self.lm.config.eos_token_id
        return tuple(ends) if isinstance(ends, (list, tuple)) else () if ends is None else (ends,)

    def embed(self, ids: Tensor) -> Tensor:
        """int64[B, L] -> float[B, L, D]"""
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
        """The hidden states before the head; see LanguageModel.forward.

        embeds     float[B, L, D]
        positions  int64[B, L]; without segments they must increase by one: transformers takes a jump for packing
        returns    float[B, L, D]
        """
        if cache is not None:
            return self._cached(embeds, positions, segments, cache)
        decoder = self.lm.base_model
        extra = attention_arguments(decoder, embeds, positions, segments)
        return decoder(inputs_embeds=embeds, position_ids=positions, use_cache=False, **extra).last_hidden_state

    def states_at(self, points: Tensor, embeds: Tensor, positions: Tensor, segments: Segments | None) -> Tensor:
        """float[S, D] at `points`, int64[S]; the last feed-forward part computes these alone. See LanguageModel."""
        module = skippable(self.lm, embeds.shape[:-1].numel(), len(points))
        with nullcontext() if module is None else only_at(module, points):
            return super().states_at(points, embeds, positions, segments)

    def segments_obstacle(self, side_texts: bool = False) -> str | None:
        return obstacle(self.lm.base_model, side_texts)

    def use_packed_attention(self) -> str | None:
        """Attention by the borders of conversations (varlen) in place of sdpa's dense mask, where the family has it."""
        before = self.lm.config._attn_implementation
        if self.config.attention is not None or before != "sdpa":
            return None
        varlen_attention.register()
        self.lm.set_attn_implementation(varlen_attention.NAME)
        if obstacle(self.lm.base_model) is not None:
            self.lm.set_attn_implementation(before)
            return None
        self._own_attention = varlen_attention.NAME  # also of the model that `load` reads
        return varlen_attention.NAME

    def _cached(self, embeds: Tensor, positions: Tensor | None, segments: Segments | None, cache: Cache) -> Tensor:
        if segments is not None:
            raise ValueError("a cache supports one causal conversation per sequence; use packed sequences without it")
        portions = cache.portions(embeds)
        if len(portions) == 1:
            return self._read(embeds, positions, cache)
        return torch.cat([self._read(portion, None, cache) for portion in portions], 1)

    def _read(self, embeds: Tensor, positions: Tensor | None, cache: Cache) -> Tensor:
        store, num_new = cache.store, embeds.shape[1]
        if isinstance(store, KeyValueStore) and self._cache_argument:
            positions = cache.positions(num_new, embeds.device) if positions is None else positions
            given = {"position_ids": positions, self._cache_argument: store.past, "use_cache": True}
            mask = cache.columns(num_new)
            if num_new == 1 and self._takes_step_masks:
                mask = step_mask(self.lm.base_model.config, mask)
            states = self.lm.base_model(inputs_embeds=embeds, attention_mask=mask, **given)
        else:
            assert isinstance(store, RereadStore)
            states = self.lm.base_model(inputs_embeds=store.appended(embeds), use_cache=False)
        cache.advance(embeds)
        return states.last_hidden_state[:, -num_new:]  # [B, num_new, D]

    def new_cache(self, mask: Tensor | None = None) -> Cache:
        """An empty cache for B sequences; mask bool[B, L], False = padding, see LanguageModel.new_cache."""
        return Cache(KeyValueStore(self.lm.config) if self._cache_argument else RereadStore(), mask)

    @cached_property
    def _cache_argument(self) -> str | None:
        return cache_argument(self.lm)

    @cached_property
    def _takes_step_masks(self) -> bool:
        return takes_step_masks(self.lm.base_model)

    def logits(self, hidden: Tensor) -> Tensor:
        """float[..., D] -> float[..., V], scaled and capped as by the model's own forward in transformers."""
        return scaled_logits(self.lm, self.lm.get_output_embeddings()(hidden))

    def beam_search(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: GenerateOptions,
        stops: BatchStops = (),
        show: Show | None = None,
        between: Between | None = None,
    ) -> list[list[int]]:
        """The answers by beam search; embeds float[B, L, D], mask bool[B, L], see LanguageModel.beam_search."""
        ends = stops_per_sequence(stops, len(embeds))
        return beam_search(self.lm, self.end_ids, embeds, mask, options, ends, show, between)

    def files(self) -> list[tuple[Path, tuple[str, ...] | None]]:
        return []  # `load` reads the folder

    @staticmethod
    def convert(state: State) -> State:
        """Rename the language model's tensors [...] of released whole-model checkpoints: llama_model. -> lm."""
        return {re.sub(r"^llama_model\.", "lm.", key): value for key, value in state.items()}

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Drop buffers of old files; the other tensors [...] stay as they are."""
        dropped = [key for key in state if is_buffer(key)]
        notes.dropped |= dict.fromkeys(dropped, "buffer that follows from the sizes")
        return {key: value for key, value in state.items() if key not in notes.dropped}

    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Replace the empty model by the one of the folder, which must have every tensor.

        The files are memory-mapped: on a CPU, weights in the dtype of the files take no additional memory, and ranks
        share them. Others are converted one by one: frozen ones to `dtype`, trainable ones to fp32.
        raises   ValueError when the folder does not fill the model, or parameters in 8 or 4 bit are trainable
        """
        if self.config.weights is None:
            if self.config.load_in_4bit:
                raise ValueError("language: load_in_4bit needs weights (a folder); random ones are not quantized")
            return "language: random weights"
        is_torchao = self.config.quantizer == "torchao" and self.config.bits is not None
        remark, extra = ("", {}) if is_torchao else quantization(self.config.bits, self.lm, device, dtype)
        trainable = {name for name, parameter in self.lm.named_parameters() if parameter.requires_grad}
        built = self.lm
        wanted: torch.dtype | str = dtype if extra else "auto"
        if is_gguf_name(self.config.weights):  # dequantised at once to what it will be, so fp32 is not needed beside it
            wanted = torch.float32 if trainable else dtype
        self.lm, prefix = read_causal_lm(self.config.weights, wanted, {**extra, **self._attention})
        move_hooks(built, with_gradient_of_all_rows(self.lm))
        settle(self.lm)
        for name, parameter in self.lm.named_parameters():
            parameter.requires_grad_(name in trainable)
            if not extra:
                parameter.data = parameter.data.to(device, torch.float32 if name in trainable else dtype)
        if not extra:
            self.lm = self.lm.to(device)  # buffers
        if is_torchao:
            remark = store_in_int8(self.lm)
        self.lm.train(self.training)
        return f"language: {len(self.lm.state_dict())} tensors from {self.config.weights}{removed(prefix)}{remark}"

    def load_outside_layers(self, device: torch.device, dtype: torch.dtype) -> str:
        return load_outside_layers(self, device, dtype)
