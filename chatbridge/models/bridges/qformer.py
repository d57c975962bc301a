"""Q-Former: K trainable queries attend to the features of an item and become its tokens (BLIP-2, Li et al. 2023).

All modalities share the weights; each modality has a query set (ChatBridge: `visual` for image and video, `sound` for
audio). Layers: transformers' Blip2QFormerModel, without its text branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.attention_setting import Attention, attention_problems, with_attention
from chatbridge.models.bridges._qformer_checkpoint import rename_released, unwanted
from chatbridge.models.bridges.base import BRIDGES, Bridge, BridgeConfig, start_output
from chatbridge.models.component import LoadNotes, State, is_nameable
from chatbridge.models.hf_folder import resolve_cached_ids, weights_problems

Positive = Annotated[int, Range(low=1)]


@BRIDGES.register("qformer")
class QFormer(Bridge):
    """float[M, T * N, W] -> float[M, num_queries, D]"""

    fp32_residuals = True

    @dataclass(frozen=True, kw_only=True)
    class Config(BridgeConfig):
        # released file or one of ours; or a whole BLIP-2 of the Hugging Face hub, of which only this part is read: its
        # folder, the index of its shards, or owner/name in the local cache. null: random weights
        weights: Path | None = None
        num_queries: Positive = 32  # K, tokens per item
        queries: dict[str, str] = field(default_factory=dict)  # modality -> its query set; empty: one set for all
        num_layers: Positive = 12
        width: Positive = 768  # channels of the queries
        heads: Positive = 12
        mlp_width: int | None = None  # hidden channels of a layer's MLP; null: four times the width
        cross_every: Positive = 2  # every n-th layer attends to the features, the first one included
        memory_width: int | None = None  # channels of the features; null: the widest. Others get a linear adapter
        adapters: tuple[str, ...] = ()  # query sets that get a linear adapter even if the width matches
        temporal: dict[str, int] = field(default_factory=dict)  # query set -> most frames; a trainable vector per frame
        dropout: Annotated[float, Range(low=0, below=1)] = 0.0
        # Attention implementation; null: the default of transformers, which is sdpa
        attention: Attention | None = None
        query_std: Annotated[float, Range(above=0)] = 0.02  # standard deviation of initial queries
        # Standard deviation of initial matrices. BERT's 0.02 suits a width of 768; at a width of 100 the tokens hardly
        # depend on the features with it, and 1 / sqrt(width) is better.
        weight_std: Annotated[float, Range(above=0)] = 0.02
        # Initial value of a query set that the weights file does not have. Never zeros: equal queries stay equal, and
        # the norm after them (eps 1e-12) multiplies their gradient by a million.
        new_queries: Literal["copy", "normal"] = "copy"

        def __post_init__(self) -> None:
            resolve_cached_ids(self, "weights")

        def query_set(self, modality: str) -> str:
            """The name of the query set of a modality. raises ValueError for a modality without one"""
            if not self.queries:
                return "all"
            if modality not in self.queries:
                raise ValueError(f"queries: there is no query set for {modality}; given are {self.queries}")
            return self.queries[modality]

        def route_problems(self, frames: Mapping[str, int]) -> Iterator[Problem]:
            for modality, count in frames.items():
                if self.queries and modality not in self.queries:
                    named = ", ".join(sorted(set(self.queries.values())))
                    message = f"has no query set for {modality}, which has a route to this bridge"
                    hint = f"add {{{modality}: {modality}}} for its own set, or the name of a set to share: {named}"
                    yield Problem("queries", message, hint=hint)
                    continue
                vectors = self.temporal.get(self.query_set(modality), count)
                if vectors < count:
                    message = f"has vectors for {vectors} frames, but the route of {modality} reads {count} at once"
                    yield Problem(f"temporal.{self.query_set(modality)}", message)

        def problems(self) -> Iterator[Problem]:
            yield from weights_problems("weights", self.weights)
            if self.width % self.heads:
                yield Problem("heads", f"width {self.width} does not divide into {self.heads} heads")
            if self.attention is not None:
                yield from attention_problems(self.attention, _model_class())
            sets = tuple(sorted(set(self.queries.values()) or {"all"}))
            for name in sets:
                if not is_nameable(name, nn.ParameterDict()):
                    hint = "choose a name that has no dot and is not an attribute of torch.nn.ParameterDict"
                    yield Problem("queries", f"{name!r} cannot name a query set in a state dict", hint=hint)
            for name in ("temporal", "adapters"):
                for given in getattr(self, name):
                    if given not in sets:
                        yield Problem(name, f"there is no query set {given!r}", allowed=sets)

    config: QFormer.Config

    def __init__(self, config: QFormer.Config, widths: Mapping[str, int], out_width: int) -> None:
        super().__init__(config, widths, out_width)
        set_widths = _width_per_set(config, widths)
        memory = self.memory_width = config.memory_width or max(set_widths.values())
        adapted = {name: width for name, width in set_widths.items() if width != memory or name in config.adapters}
        self.queries = nn.ParameterDict(
            {
                name: nn.Parameter(torch.randn(config.num_queries, config.width) * config.query_std)
                for name in set_widths
            }
        )
        self.adapters = nn.ModuleDict({name: nn.Linear(width, memory) for name, width in adapted.items()})
        self.temporal = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(frames, memory)) for name, frames in config.temporal.items()}
        )
        self.qformer = _query_transformer(config, memory)
        self.output = nn.Linear(config.width, out_width)
        start_output(self.output, config.output_std)

    def num_tokens(self, num_features: int) -> int:
        return self.config.num_queries

    def forward(self, features: Features, modality: str) -> Tensor:
        """The tokens of M items.

        features  x float[M, T * N, W], mask bool[M, T * N] or None
        returns   float[M, K, D]
        raises    ValueError for a modality without queries, or more frames than `temporal` has vectors
        """
        query_set = self.config.query_set(modality)
        memory = self.memory(features, query_set)  # [M, T * N, memory_width]
        queries = self.queries[query_set].expand(memory.shape[0], -1, -1)  # [M, K, width]
        mask = None if features.mask is None else features.mask.long()
        outputs = self.qformer(query_embeds=queries, encoder_hidden_states=memory, encoder_attention_mask=mask)
        return self.output(outputs.last_hidden_state)  # [M, K, D]

    def memory(self, features: Features, query_set: str) -> Tensor:
        """The keys and values of cross-attention: features in the common width, plus the vector of their frame.

        features  x float[M, T * N, W]
        returns   float[M, T * N, memory_width]
        raises    ValueError for more frames than `temporal` has vectors
        """
        x = features.x.to(self.queries[query_set].dtype)
        if query_set in self.adapters:
            x = self.adapters[query_set](x)
        if query_set not in self.temporal:
            return x
        vectors = self.temporal[query_set]
        if features.frames > len(vectors):
            raise ValueError(f"{features.frames} frames, but temporal.{query_set} has vectors for {len(vectors)} only")
        x = x.unflatten(1, (features.frames, -1)) + vectors[: features.frames, None]  # [M, T, N, memory_width]
        return x.flatten(1, 2)  # [M, T * N, memory_width]

    @staticmethod
    def names_within(names: Iterable[str]) -> list[str]:
        return [name for name in names if unwanted(name) is None]

    @staticmethod
    def convert(state: State) -> State:
        """Rename released tensors [...]; see _qformer_checkpoint.rename_released."""
        return rename_released(state)

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Assign the tensors of each modality to its query set, drop unused ones, note those the file need not have.

        state    our name, or the modality's, -> tensor; queries float[K, W]
        returns  the tensors of this bridge by our names
        """
        for key in list(state):
            reason = unwanted(key)
            if reason is not None:
                state.pop(key)
                notes.dropped[key] = reason
        state = {self._by_set(key): value for key, value in state.items()}
        self._start_new_queries(state, notes)
        notes.kept |= dict.fromkeys(self._absent(state), "initial values; the file does not have it")
        return state

    def _absent(self, state: State) -> list[str]:
        """Tensors outside the transformer that are missing in a file and need not be there.

        A weight and its bias must both be missing: a loaded weight with a freshly initialised bias would match neither
        source.
        """
        groups: dict[str, list[str]] = {}
        for name in self.state_dict():
            if name.startswith(("queries.", "adapters.", "temporal.", "output.")):
                groups.setdefault(name.removesuffix(".weight").removesuffix(".bias"), []).append(name)
        return [name for names in groups.values() if not any(one in state for one in names) for name in names]

    def _by_set(self, key: str) -> str:
        """queries.image -> queries.visual, if the query set of image is `visual`."""
        kind, _, rest = key.partition(".")
        modality, dot, leaf = rest.partition(".")
        if kind not in ("queries", "adapters", "temporal") or modality not in self.widths or modality in self.queries:
            return key
        return f"{kind}.{self.config.query_set(modality)}{dot}{leaf}"

    def _start_new_queries(self, state: State, notes: LoadNotes) -> None:
        given = [name for name in self.queries if f"queries.{name}" in state]
        if self.config.new_queries != "copy" or not given:
            return
        for name in self.queries:
            if name not in given:
                state[f"queries.{name}"] = state[f"queries.{given[0]}"].clone()
                notes.reshaped[f"queries.{name}"] = f"copy of queries.{given[0]}; the file does not have it"


def _width_per_set(config: QFormer.Config, widths: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for modality, width in widths.items():
        query_set = config.query_set(modality)
        if found.setdefault(query_set, width) != width:
            raise ValueError(
                f"query set {query_set!r} gets features of width {found[query_set]} and {width} ({modality}); "
                "give modalities of different encoders their own query set"
            )
    return found


def _model_class() -> type:
    from transformers import Blip2QFormerModel

    return Blip2QFormerModel


def _query_transformer(config: QFormer.Config, memory_width: int) -> nn.Module:
    from transformers import Blip2QFormerConfig

    settings = Blip2QFormerConfig(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width or 4 * config.width,
        cross_attention_frequency=config.cross_every,
        encoder_hidden_size=memory_width,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        initializer_range=config.weight_std,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        use_qformer_text_input=False,
    )
    return _model_class()(with_attention(settings, config.attention))
