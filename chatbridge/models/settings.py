"""What a YAML says about a model: parts by name, and which of them each modality travels through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from chatbridge.common.errors import Problem, nearest
from chatbridge.common.markers import Choice, Length, Part, Range
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.added_tokens import token_faults
from chatbridge.models.bridges import BRIDGES, Bridge
from chatbridge.models.encoders import ENCODERS, Encoder
from chatbridge.models.fusion import FUSIONS, Fusion
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.language import LANGUAGES, LanguageModel


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """How many pieces of an item are read, and what becomes of them."""

    count: Annotated[int, Range(low=1)] = 1  # frames of a video, clips of a sound
    # concat: the bridge reads the features of all pieces at once. separate: it reads each by itself, and the item has
    # `count` times as many tokens.
    merge: Literal["concat", "separate"] = "concat"


@dataclass(frozen=True, kw_only=True)
class RouteConfig:
    """The way of one modality; naming the same part in two routes shares it."""

    encoder: str  # a key of model.encoders
    bridge: str  # a key of model.bridges
    frames: FramesConfig | None = None  # of a video
    clips: FramesConfig | None = None  # of a sound; the same setting by its other name

    @property
    def pieces(self) -> FramesConfig:
        return self.frames or self.clips or FramesConfig()

    def problems(self) -> Iterator[str]:
        if self.frames is not None and self.clips is not None:
            yield "gives both frames and clips, which are two words for one setting"


def _inline() -> Choice[Fusion]:
    return Choice("inline", Inline.Config(), Inline)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model. State-dict names follow these keys: encoders.<key>.*, bridges.<key>.*, language.*, fusion.*,
    added_tokens.embedding.<token>, added_tokens.head.<token>"""

    encoders: dict[str, Annotated[Choice[Encoder], Part(ENCODERS)]] = field(default_factory=dict)
    bridges: dict[str, Annotated[Choice[Bridge], Part(BRIDGES)]] = field(default_factory=dict)
    language: Annotated[Choice[LanguageModel], Part(LANGUAGES)]
    fusion: Annotated[Choice[Fusion], Part(FUSIONS)] = field(default_factory=_inline)
    added_tokens: tuple[str, ...] = ()  # new rows beside the vocabulary, e.g. "<image>"; start as the mean of its rows
    routes: Annotated[dict[str, RouteConfig], Length(low=1)]  # modality -> its way
    trainable: tuple[str, ...] = ()  # patterns over state-dict names, e.g. "bridges.*"; nothing trains by itself

    def problems(self) -> Iterator[Problem]:
        for modality, route in self.routes.items():
            yield from _unregistered(modality)
            yield from _unknown(f"routes.{modality}.encoder", "encoder", route.encoder, tuple(self.encoders))
            yield from _unknown(f"routes.{modality}.bridge", "bridge", route.bridge, tuple(self.bridges))
            if route.encoder in self.encoders:
                yield from self._unreadable(modality, route)
        for name, bridge in self.bridges.items():
            routed = {modality: route.pieces for modality, route in self.routes.items() if route.bridge == name}
            frames = {modality: way.count if way.merge == "concat" else 1 for modality, way in routed.items()}
            for problem in bridge.config.route_problems(frames):
                yield replace(problem, path=f"bridges.{name}.{problem.path}")
        yield from (Problem(f"added_tokens[{number}]", fault) for number, fault in token_faults(self.added_tokens))
        yield from self._unused()
        yield from self._untrainable()

    def _unreadable(self, modality: str, route: RouteConfig) -> Iterator[Problem]:
        encoder = self.encoders[route.encoder]
        if modality in MODALITIES and modality not in encoder.part.modalities:
            message = f"encoder {route.encoder!r} ({encoder.name}) does not read {modality}"
            readable = tuple(sorted(encoder.part.modalities))
            yield Problem(f"routes.{modality}", message, allowed=readable, nearest=nearest(modality, readable))

    def _unused(self) -> Iterator[Problem]:
        for kind in ("encoder", "bridge"):
            used = {getattr(route, kind) for route in self.routes.values()}
            for name in getattr(self, f"{kind}s"):
                if name not in used:
                    yield Problem(
                        f"{kind}s.{name}", f"no route uses this {kind}", hint="name it in a route or remove it"
                    )

    def _untrainable(self) -> Iterator[Problem]:
        """Patterns that no part can match. Whether the others match a tensor is known once the model is built."""
        groups = {"encoders": self.encoders, "bridges": self.bridges}
        parts = (*(f"{group}.{name}" for group, named in groups.items() for name in named), "language", "fusion")
        parts += ("added_tokens",) * bool(self.added_tokens)
        for number, pattern in enumerate(self.trainable):
            if not any(_may_match(pattern, part) for part in parts):
                wanted = nearest(pattern.partition("*")[0].rstrip("."), (*parts, *groups))
                yield Problem(f"trainable[{number}]", f"{pattern!r} matches no part", allowed=parts, nearest=wanted)


def with_background(encoders: Mapping[str, Choice[Encoder]], background: str) -> dict[str, Choice[Encoder]]:
    """The encoders; those that read images have this color behind transparent pixels."""
    return {
        name: replace(one, config=replace(one.config, background=background)) if has_background(one) else one
        for name, one in encoders.items()
    }


def has_background(choice: Choice[Encoder]) -> bool:
    return any(field.name == "background" for field in fields(choice.config))


def _may_match(pattern: str, part: str) -> bool:
    """Whether a pattern over tensor names may match one below `part`; behind a wildcard anything may."""
    for wanted, name in zip(pattern.split("."), part.split(".")):
        if any(mark in wanted for mark in "*?["):
            return fnmatchcase(name, wanted) or ("*" in wanted and fnmatchcase(name, wanted.partition("*")[0] + "*"))
        if wanted != name:
            return False
    return True


def _unregistered(modality: str) -> Iterator[Problem]:
    if modality not in MODALITIES:
        names = MODALITIES.names()
        hint = None if nearest(modality, names) else "a plugin registers more: its modalities.py, and plugins: [...]"
        message = f"there is no modality named {modality!r}"
        yield Problem(f"routes.{modality}", message, allowed=names, nearest=nearest(modality, names), hint=hint)


def _unknown(path: str, kind: str, name: str, known: tuple[str, ...]) -> Iterator[Problem]:
    if name not in known:
        yield Problem(path, f"there is no {kind} called {name!r}", allowed=known, nearest=nearest(name, known))
