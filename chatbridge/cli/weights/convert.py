"""`chatbridge weights convert SRC DST`: a released file as safetensors in our names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from chatbridge.cli.weights.headers import readable_size
from chatbridge.cli.weights.lazy_tensors import LazyState
from chatbridge.cli.weights.shard_writer import write_safetensors
from chatbridge.common.errors import nearest
from chatbridge.models.bridges import BRIDGES
from chatbridge.models.component import State
from chatbridge.models.encoders import ENCODERS
from chatbridge.models.importers.chatbridge import split
from chatbridge.models.importers.minigpt4 import buffer_reason
from chatbridge.models.language import LANGUAGES
from chatbridge.models.weight_files import prefixes_of

KINDS = {  # --part -> (registered converter, the sides of a whole checkpoint it is made from)
    "eva_vit": (ENCODERS, "image"),
    "beats": (ENCODERS, "audio"),
    "qformer": (BRIDGES, "bridge"),
    "linear": (BRIDGES, "bridge"),
    "causal_lm": (LANGUAGES, "language"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tensors of one part as safetensors, under the names its `weights:` setting reads. --part none keeps the
    names as they are (pickled or sharded files of any kind as one safetensors file)."""
    parser = argparse.ArgumentParser(prog="chatbridge weights convert", description=main.__doc__)
    parser.add_argument("source", type=Path, help=".pth, .pt, .bin, .safetensors, an index of shards, or a folder")
    parser.add_argument("target", type=Path, help="NAME.safetensors")
    parser.add_argument("--part", default="auto", help=f"auto, none, or one of {', '.join(KINDS)}")
    given = parser.parse_args(arguments)
    source = LazyState(given.source)
    if given.part != "none":
        remove_prefix(source)
    kind = guessed(list(source.entries)) if given.part == "auto" else given.part
    tensors, dropped = converted(source, kind, given.source)
    if given.target.suffix != ".safetensors":
        raise ValueError(f"{given.target}: the target's name must end in .safetensors")
    if given.target.exists():
        raise ValueError(f"{given.target} is there already; name another target")
    write_safetensors(tensors, given.target)
    size = readable_size(given.target.stat().st_size)
    print(f"{given.target}: {len(tensors)} tensors as {kind}, {size}; {len(dropped)} of another part left out")
    for name in dropped[:5]:
        print(f"  left out: {name}")
    if kind == "beats":
        print("  the file's `cfg` stays behind: sizes other than the released model's belong into the YAML")
    return 0


def remove_prefix(source: LazyState) -> None:
    """Without it the names tell which part they are of: DDP's "module." and the like before all of them."""
    for prefix in ("", *prefixes_of(source.entries)):
        try:
            guessed([name.removeprefix(prefix) for name in source.entries])
        except ValueError:
            continue
        if prefix:
            source.remove_prefix(prefix)
            print(f"prefix {prefix!r} of all names removed")
        return


def guessed(names: Sequence[str]) -> str:
    """Which part a released file is of, by the names in it.

    raises   ValueError when nothing tells, or it holds several parts
    """
    signs: dict[str, Callable[[str], bool]] = {
        "eva_vit": lambda name: name.startswith(("visual_encoder.", "patch_embed.proj.", "cls_token", "vit.")),
        "beats": lambda name: name.startswith(("audio_encoder.", "post_extract_proj.", "patch_embedding.")),
        "qformer": lambda name: name.startswith(("Qformer.", "bert.encoder.", "qformer.")),
        "causal_lm": lambda name: name.startswith(("llama_model.", "model.embed_tokens.", "lm.")),
    }
    real = [name for name in names if buffer_reason(name) is None]
    found = [kind for kind, sign in signs.items() if any(map(sign, real))]
    if not found and any(name.startswith("llama_proj.") for name in real):
        found = ["linear"]
    if len(found) == 1:
        return found[0]
    what = f"it holds {' and '.join(found)}" if found else "its names tell nothing"
    raise ValueError(
        f"cannot tell which part to write: {what}; say --part {'|'.join(KINDS)}, or none to keep all names"
    )


def converted(source: LazyState, kind: str, path: Path) -> tuple[State, list[str]]:
    """Tensors in our names, and the names of tensors that belong to another part.

    raises   ValueError for an unknown kind, or a file without a tensor of it
    """
    if kind == "none":
        return {name: _own(source[name]) for name in source.entries}, []
    if kind not in KINDS:
        raise ValueError(f"there is no part {kind!r}; known are {', '.join(KINDS)}, none (did you mean "
                         f"{nearest(kind, KINDS) or 'auto'}?)")  # fmt: skip
    registry, role = KINDS[kind]
    wanted = _of_role(list(source.entries), role)
    if not wanted:
        raise ValueError(f"{path} has no tensor of {kind}")
    ours = registry.get(kind).convert({name: source[name] for name in wanted})
    return {name: _own(value) for name, value in ours.items()}, [name for name in source.entries if name not in wanted]


def _of_role(names: list[str], role: str) -> list[str]:
    """All names of a file of one part; of a whole checkpoint, those of its side."""
    marks = ("visual_encoder.", "ln_vision.", "audio_encoder.", "ln_audio.", "llama_model.", "Qformer.", "llama_proj.")
    if not any(name.startswith(marks) for name in names):
        return names
    sides = split(dict.fromkeys(names))  # type: ignore[arg-type]  # only the names matter
    return [name for name in sides.get(role, {}) if buffer_reason(name) is None]


def _own(value: Tensor) -> Tensor:
    """Memory of its own: safetensors refuses tensors that share some."""
    return value.clone().contiguous()
