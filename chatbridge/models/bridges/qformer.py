"""Q-Former: learned queries read the features of an item and become its K tokens (BLIP-2, Li et al. 2023).

One set of weights serves all modalities; each modality names the set of queries it is read with (ChatBridge:
`visual` for image and video, `sound` for audio). Layers: transformers' Blip2QFormerModel, queries only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.bridges._qformer_checkpoint import from_released, unwanted
from chatbridge.models.bridges.base import BRIDGES, Bridge, BridgeConfig, start_output
from chatbridge.models.component import LoadNotes, State, is_nameable

Positive = Annotated[int, Range(low=1)]


@BRIDGES.register("qformer")
class QFormer(Bridge):
    """float[M, T * N, W] -> float[M, num_queries, D]"""

    fp32_residuals = True

    @dataclass(frozen=True, kw_only=True)
    class Config(BridgeConfig):
        num_queries: Positive = 32  # K, tokens per item
        queries: dict[str, str] = field(default_factory=dict)  # modality -> its set of queries; empty: one set for all
        num_layers: Positive = 12
        width: Positive = 768  # channels of the queries
        heads: Positive = 12
        mlp_width: int | None = None  # hidden channels of a layer's MLP; none = four times the width
        cross_every: Positive = 2  # every n-th layer reads the features, the first one included
        memory_width: int | None = None  # channels that are read; none = the widest features. Others get an adapter
        adapters: tuple[str, ...] = ()  # query sets that get a linear adapter even where the width fits
        temporal: dict[str, int] = field(default_factory=dict)  # query set -> most frames; a learned vector per frame
        dropout: Annotated[float, Range(low=0, below=1)] = 0.0
        query_std: Annotated[float, Range(above=0)] = 0.02  # standard deviation of fresh queries
        # Standard deviation of fresh matrices. BERT's 0.02 suits a width of 768; at a width of 100 the features hardly
        # show in the tokens with it, and 1 / sqrt(width) lets them.
        weight_std: Annotated[float, Range(above=0)] = 0.02
        # What a query set starts as that the weights file does not have. Never zeros: equal queries stay equal, and
        # the norm behind them (eps 1e-12) turns their gradient into a million times that of other queries.
        new_queries: Literal["copy", "normal"] = "copy"

        def query_set(self, modality: str) -> str:
            """raises   ValueError for a modality without one"""
            if not self.queries:
                return "all"
            if modality not in self.queries:
                raise ValueError(f"queries: no set of queries for {modality}; given are {self.queries}")
            return self.queries[modality]

        def route_problems(self, frames: Mapping[str, int]) -> Iterator[Problem]:
            for modality, count in frames.items():
                if self.queries and modality not in self.queries:
                    named = ", ".join(sorted(set(self.queries.values())))
                    message = f"names no set of queries for {modality}, which is routed here"
                    hint = f"add {{{modality}: {modality}}} for its own set, or the name of one to share: {named}"
                    yield Problem("queries", message, hint=hint)
                    continue
                vectors = self.temporal.get(self.query_set(modality), count)
                if vectors < count:
                    message = f"has vectors for {vectors} frames, but the route of {modality} reads {count} at once"
                    yield Problem(f"temporal.{self.query_set(modality)}", message)

        def problems(self) -> Iterator[Problem]:
            if self.width % self.heads:
                yield Problem("heads", f"width {self.width} does not divide into {self.heads} heads")
            sets = tuple(sorted(set(self.queries.values()) or {"all"}))
            for name in sets:
                if not is_nameable(name, nn.ParameterDict()):
                    hint = "choose a name that has no dot and is no attribute of torch.nn.ParameterDict"
                    yield Problem("queries", f"{name!r} cannot name a set of queries in a state dict", hint=hint)
            for name in ("temporal", "adapters"):
                for given in getattr(self, name):
                    if given not in sets:
                        yield Problem(name, f"no set of queries is called {given!r}", allowed=sets)

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
        """raises   ValueError for a modality without queries, or more frames than `temporal` has vectors"""
        query_set = self.config.query_set(modality)
        memory = self.memory(features, query_set)  # [M, T * N, memory_width]
        queries = self.queries[query_set].expand(memory.shape[0], -1, -1)  # [M, K, width]
        mask = None if features.mask is None else features.mask.long()
        read = self.qformer(query_embeds=queries, encoder_hidden_states=memory, encoder_attention_mask=mask)
        return self.output(read.last_hidden_state)  # [M, K, D]

    def memory(self, features: Features, query_set: str) -> Tensor:
        """What the queries read: features in the common width, each frame marked with its vector."""
        x = features.x.to(self.queries[query_set].dtype)
        if query_set in self.adapters:
            x = self.adapters[query_set](x)
        if query_set not in self.temporal:
            return x
        vectors = self.temporal[query_set]
        if features.frames > len(vectors):
            raise ValueError(f"{features.frames} frames, but temporal.{query_set} has vectors for {len(vectors)} only")
        return (x.unflatten(1, (features.frames, -1)) + vectors[: features.frames, None]).flatten(1, 2)

    @staticmethod
    def convert(state: State) -> State:
        return from_released(state)

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Give each medium's tensors to its query set, drop what is not a bridge's, excuse what is not in the file."""
        for key in list(state):
            reason = unwanted(key)
            if reason is not None:
                state.pop(key)
                notes.dropped[key] = reason
        state = {self._by_set(key): value for key, value in state.items()}
        self._start_new_queries(state, notes)
        notes.kept |= dict.fromkeys(self._absent(state), "start values; the file does not have it")
        return state

    def _absent(self, state: State) -> list[str]:
        """Tensors beside the transformer that a file need not have; a matrix and its bias come together or not at all,
        since half of a layer beside start values would be no layer of anybody's."""
        groups: dict[str, list[str]] = {}
        for name in self.state_dict():
            if name.startswith(("queries.", "adapters.", "temporal.", "output.")):
                groups.setdefault(name.removesuffix(".weight").removesuffix(".bias"), []).append(name)
        return [name for names in groups.values() if not any(one in state for one in names) for name in names]

    def _by_set(self, key: str) -> str:
        """queries.image -> queries.visual, where image is read with the set `visual`."""
        kind, _, rest = key.partition(".")
        medium, dot, leaf = rest.partition(".")
        if kind not in ("queries", "adapters", "temporal") or medium not in self.widths or medium in self.queries:
            return key
        return f"{kind}.{self.config.query_set(medium)}{dot}{leaf}"

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
                f"query set {query_set!r} reads features of width {found[query_set]} and {width} ({modality}); "
                "give modalities of different encoders their own set"
            )
    return found


def _query_transformer(config: QFormer.Config, memory_width: int) -> nn.Module:
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

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
    return Blip2QFormerModel(settings)
