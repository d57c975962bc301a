"""The `model:` section of a YAML: components by name, and the route of each modality through them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from chatbridge.common.errors import Problem, nearest
from chatbridge.config.constraints import Choice, Exists, PartOf
from chatbridge.conversation.modalities import IMAGE, MODALITIES
from chatbridge.models.adapters import AdapterConfig, package_problems
from chatbridge.models.added_tokens import token_faults
from chatbridge.models.bridges import BRIDGES, Bridge
from chatbridge.models.component import is_nameable
from chatbridge.models.encoders import ENCODERS, Encoder
from chatbridge.models.fusion import FUSIONS, Fusion
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.generators import GENERATORS, Generator
from chatbridge.models.language import LANGUAGES, LanguageModel
from chatbridge.models.route_config import PIECES_KEYS, PiecesConfig, RouteConfig
from chatbridge.processors.media_processor import PieceCountError


def _inline() -> Choice[Fusion]:
    return Choice("inline", Inline.Config(), Inline)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model. State-dict names follow these keys: encoders.<key>.*, bridges.<key>.*, language.*, fusion.*,
    added_tokens.embedding.<token>, added_tokens.head.<token>"""

    encoders: dict[str, Annotated[Choice[Encoder], PartOf(ENCODERS)]] = field(default_factory=dict)
    bridges: dict[str, Annotated[Choice[Bridge], PartOf(BRIDGES)]] = field(default_factory=dict)
    language: Annotated[Choice[LanguageModel], PartOf(LANGUAGES)]
    fusion: Annotated[Choice[Fusion], PartOf(FUSIONS)] = field(default_factory=_inline)
    added_tokens: tuple[str, ...] = ()  # tokens to add to the vocabulary, e.g. "<image>"; initialised to the mean row
    random_init_tokens: tuple[str, ...] = ()  # those of added_tokens that start at random values (ChatBind: <im_patch>)
    routes: dict[str, RouteConfig] = field(default_factory=dict)  # modality -> its encoder and bridge; none: text only
    # draws the images of answers if the template supports them; training does not build it. null: captions only
    generator: Annotated[Choice[Generator], PartOf(GENERATORS)] | None = None
    # a released checkpoint of several parts, read after their own `weights` each time the model is built, so its frozen
    # tensors are in no checkpoint of a run: OpenFlamingo's resampler, gated blocks and embedding. null: none
    weights: Annotated[Path | None, Exists()] = None
    trainable: tuple[str, ...] = ()  # patterns over state-dict names, e.g. "bridges.*"; everything else is frozen
    # low-rank matrices beside linear layers of any component; they train, whatever `trainable` names
    adapters: tuple[AdapterConfig, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for kind in ("encoders", "bridges"):
            yield from _unnameable(kind, getattr(self, kind))
        for modality, route in self.routes.items():
            yield from _unregistered(modality)
            yield from _unknown(f"routes.{modality}.encoder", "encoder", route.encoder, tuple(self.encoders))
            yield from _unknown(f"routes.{modality}.bridge", "bridge", route.bridge, tuple(self.bridges))
            if route.encoder in self.encoders:
                yield from self._unreadable(modality, route)
                yield from self._read_whole(modality, route)
        for name, bridge in self.bridges.items():
            routed = {modality: route.pieces_config for modality, route in self.routes.items() if route.bridge == name}
            frames = {modality: way.count if way.merge == "concat" else 1 for modality, way in routed.items()}
            for problem in bridge.config.route_problems(frames):
                yield replace(problem, path=f"bridges.{name}.{problem.path}")
        for problem in self.fusion.config.route_problems(tuple(self.routes)):
            yield replace(problem, path=f"fusion.{problem.path}")
        yield from (Problem(f"added_tokens[{number}]", fault) for number, fault in token_faults(self.added_tokens))
        for number, token in enumerate(self.random_init_tokens):
            if token not in self.added_tokens:
                guess = nearest(token, self.added_tokens)
                message = f"{token!r} is not one of added_tokens"
                yield Problem(f"random_init_tokens[{number}]", message, allowed=self.added_tokens, nearest=guess)
        yield from self._unused()
        yield from self._untrainable()
        yield from package_problems(self.adapters)

    def modalities_of(self, encoder: str) -> frozenset[str]:
        """The modalities whose route leads to this encoder."""
        return frozenset(modality for modality, route in self.routes.items() if route.encoder == encoder)

    @property
    def image_route(self) -> RouteConfig:
        """The route of images; of a model without one its first route. raises ValueError for a text-only model"""
        if not self.routes:
            raise ValueError("this model reads no media; add encoders, bridges and routes")
        return self.routes.get("image") or next(iter(self.routes.values()))

    def processors(self, train: bool) -> dict[str, Any]:
        """Modality -> the processor that turns a media file into the model's input."""
        return {
            modality: self.encoders[route.encoder].config.processor(modality, train, route.pieces_config.count)
            for modality, route in self.routes.items()
        }

    def _unreadable(self, modality: str, route: RouteConfig) -> Iterator[Problem]:
        encoder = self.encoders[route.encoder]
        if modality in MODALITIES and modality not in encoder.part.modalities:
            message = f"encoder {route.encoder!r} ({encoder.name}) does not read {modality}"
            readable = tuple(sorted(encoder.part.modalities))
            yield Problem(f"routes.{modality}", message, allowed=readable, nearest=nearest(modality, readable))

    def piece_fault(self, modality: str, count: int) -> str | None:
        """Why the encoder of a routed modality cannot make so many pieces of an item; None when it can."""
        name = self.routes[modality].encoder
        if name not in self.encoders or modality not in self.encoders[name].part.modalities:
            return None
        try:
            self.encoders[name].config.processor(modality, False, count)
        except PieceCountError as error:
            return f"encoder {name!r} ({self.encoders[name].name}): {error}"
        except (ValueError, OSError):  # missing files are reported elsewhere
            return None
        return None

    def _read_whole(self, modality: str, route: RouteConfig) -> Iterator[Problem]:
        """A problem when the encoder's processor does not make `count` pieces of an item, as for images."""
        encoder, count = self.encoders[route.encoder], route.pieces_config.count
        if modality not in encoder.part.modalities or (count == 1 and modality == IMAGE.name):
            return
        if (fault := self.piece_fault(modality, count)) is not None:
            yield Problem(f"routes.{modality}.{route.pieces_key}.count", f"is {count}, but {fault}")
            return
        try:
            found = getattr(encoder.config.processor(modality, False, count), "count", count)
        except (ValueError, OSError):  # missing files are reported elsewhere
            return
        if found != count:
            message = f"is {count}, but encoder {route.encoder!r} ({encoder.name}) reads {found} per {modality}"
            yield Problem(f"routes.{modality}.{route.pieces_key}.count", message, hint=f"set it to {found}")

    def _unused(self) -> Iterator[Problem]:
        for kind in ("encoder", "bridge"):
            used = {getattr(route, kind) for route in self.routes.values()}
            for name in getattr(self, f"{kind}s"):
                if name not in used:
                    yield Problem(
                        f"{kind}s.{name}", f"no route uses this {kind}", hint="name it in a route or remove it"
                    )

    def _untrainable(self) -> Iterator[Problem]:
        """Patterns that no component can match. Whether the others match a tensor is known once the model is built."""
        groups = {"encoders": self.encoders, "bridges": self.bridges}
        parts = (*(f"{group}.{name}" for group, named in groups.items() for name in named), "language", "fusion")
        tokens = ("added_tokens",) * bool(self.added_tokens)
        patterns = [(f"trainable[{number}]", pattern, parts + tokens) for number, pattern in enumerate(self.trainable)]
        for entry, adapter in enumerate(self.adapters):
            own = enumerate(adapter.targets)
            patterns += [(f"adapters[{entry}].targets[{number}]", pattern, parts) for number, pattern in own]
        for path, pattern, allowed in patterns:
            if not any(may_match(pattern, part) for part in allowed):
                wanted = nearest(pattern.partition("*")[0].rstrip("."), (*allowed, *groups))
                yield Problem(path, f"{pattern!r} matches no part", allowed=allowed, nearest=wanted)


def with_background(encoders: Mapping[str, Choice[Encoder]], background: str) -> dict[str, Choice[Encoder]]:
    """The encoders, with this background color for transparent pixels where they read images."""
    return {
        name: replace(one, config=replace(one.config, background=background)) if has_background(one) else one
        for name, one in encoders.items()
    }


def has_background(choice: Choice[Encoder]) -> bool:
    """Whether an encoder has the setting `background`."""
    return any(field.name == "background" for field in fields(choice.config))


def may_match(pattern: str, part: str) -> bool:
    """Whether a pattern over tensor names may match a tensor of `part`; a wildcard matches any rest."""
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


def _unnameable(group: str, names: Iterable[str]) -> Iterator[Problem]:
    """A problem for each name that a module of torch cannot have."""
    for name in names:
        if not is_nameable(name, nn.ModuleDict()):
            hint = "choose a name that has no dot and is no attribute of torch.nn.ModuleDict"
            yield Problem(f"{group}.{name}", f"{name!r} cannot name a part in a state dict", hint=hint)


def _unknown(path: str, kind: str, name: str, known: tuple[str, ...]) -> Iterator[Problem]:
    if name not in known:
        yield Problem(path, f"there is no {kind} called {name!r}", allowed=known, nearest=nearest(name, known))


__all__ = [
    "PIECES_KEYS",
    "ModelConfig",
    "PiecesConfig",
    "RouteConfig",
    "has_background",
    "may_match",
    "with_background",
]
