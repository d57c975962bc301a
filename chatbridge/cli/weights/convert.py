"""`chatbridge weights convert SRC DST`: write a released file as safetensors with ChatBridge's tensor names, a part
of BLIP-2 with those of another library, or a GGUF file or Whisper of CTranslate2 as a folder of transformers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from chatbridge.cli.gguf_folder import write_gguf_folder
from chatbridge.cli.weights.clip_folder import ACTIVATIONS, write_clip_folder
from chatbridge.cli.weights.ct2_file import ct2_of
from chatbridge.cli.weights.language_folder import DTYPES, write_language_folder
from chatbridge.cli.weights.part_of_file import KINDS, part_of, remove_prefix
from chatbridge.cli.weights.shard_writer import write_safetensors
from chatbridge.cli.weights.whisper_folder import convert_whisper
from chatbridge.common.errors import nearest
from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.models.bridges._qformer_checkpoint import to_released
from chatbridge.models.component import State
from chatbridge.models.encoders._blip2_vision_names import KEY_BIAS, to_huggingface, to_lavis
from chatbridge.models.encoders.eva_vit import PRESETS
from chatbridge.models.importers.chatbind_names import is_chatbind, projection, released_names
from chatbridge.models.importers.chatbridge import split
from chatbridge.models.importers.flamingo_names import resampler_of
from chatbridge.models.importers.minigpt4 import buffer_reason
from chatbridge.models.importers.textbind_names import is_textbind
from chatbridge.models.lazy_tensors import LazyTensors
from chatbridge.models.tensor_headers import readable_size

NAMES = ("huggingface", "lavis")
BLIP2 = ("eva_vit", "qformer")  # parts that transformers and LAVIS have too


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tensors of one part as safetensors, with the names that its `weights:` setting reads. --part none keeps
    all names (any pickled or sharded file as one safetensors file); --part clip writes a folder for hf_vision. A .gguf
    file is dequantised and written as a folder of transformers with its tokenizer, for causal_lm. Of a Whisper model of
    CTranslate2 (faster-whisper), its folder or its model.bin, the encoder is written as a folder for hf_audio."""
    given = _parser().parse_args(arguments)
    if is_gguf_name(given.source):
        return _write_gguf(given)
    if (whisper := ct2_of(given.source)) is not None:
        return _write_whisper(whisper, given)
    part = KINDS[given.part][0].get(given.part) if given.part in BLIP2 else None
    source = LazyTensors(given.source, None if part is None else part.names_within)
    if given.part != "none":
        remove_prefix(source)
    kind = part_of(list(source.headers)) if given.part == "auto" else given.part
    if given.base is not None and not (kind == "causal_lm" and is_textbind(source.headers)):
        raise ValueError("--base is for --part causal_lm of TextBind's file, whose settings it has")
    if kind == "clip":
        _write_folder(source, given.target, given.activation)
    elif given.base is not None:
        number = write_language_folder(source, given.target, given.base, DTYPES.get(given.dtype))
        print(f"{given.target}: {number} tensors of the language model; set it as model.language.weights beside "
              f"run.init_from={given.source}")  # fmt: skip
    else:
        _write_file(source, kind, given)
    return 0


def _write_gguf(given: argparse.Namespace) -> int:
    """Write the language model of a GGUF file as a folder, and print what it holds. Raises ValueError."""
    if given.part not in ("auto", "causal_lm") or given.base is not None or given.names != "chatbridge":
        raise ValueError(
            f"{given.source} is a whole language model: it is written as a folder of transformers, without --part, "
            "--base and --names"
        )
    number, num_bytes = write_gguf_folder(given.source, given.target, DTYPES.get(given.dtype))
    size = readable_size(num_bytes)
    print(f"{given.target}: {number} tensors, {size}, with the settings, the tokenizer and the chat template of the "
          "file; set it as model.language.weights")  # fmt: skip
    return 0


def _write_whisper(source: Path, given: argparse.Namespace) -> int:
    """Write the encoder of a model of CTranslate2 as a folder, and print what it holds. Raises ValueError."""
    if given.part != "auto" or given.base is not None or given.names != "chatbridge":
        raise ValueError(
            f"{source} is a model of CTranslate2: its encoder is written without --part, --base and --names"
        )
    target: Path = given.target
    if target.exists() or target.suffix:
        raise ValueError(f"{target}: a folder is written; give a name without an ending that does not exist yet")
    number, num_bytes = convert_whisper(source, target, DTYPES.get(given.dtype))
    print(f"{target}: {number} tensors of Whisper's encoder, {readable_size(num_bytes)}; hf_audio reads it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chatbridge weights convert", description=main.__doc__)
    parser.add_argument(
        "source",
        type=Path,
        help=".pth, .pt, .bin, .safetensors, .gguf, an index of shards, or a folder, also of faster-whisper",
    )
    parser.add_argument(
        "target",
        type=Path,
        help="NAME.safetensors; of --part clip, a .gguf and faster-whisper a folder that does not exist yet",
    )
    parser.add_argument("--part", default="auto", help=f"auto, none, clip, or one of {', '.join(KINDS)}")
    parser.add_argument(
        "--names", choices=("chatbridge", *NAMES), default="chatbridge",
        help="of --part eva_vit and qformer: as ChatBridge, as transformers' BLIP-2, or as LAVIS names the tensors",
    )  # fmt: skip
    parser.add_argument(
        "--base", type=Path, metavar="FOLDER",
        help="with --part causal_lm and TextBind's file: the language model that was trained. A folder is written with "
        "its settings and tokenizer, for a language model in 8 or 4 bits",
    )  # fmt: skip
    parser.add_argument(
        "--dtype",
        choices=("keep", *DTYPES),
        default="keep",
        help="of the tensors; with --base, of a .gguf or of faster-whisper",
    )
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, default=ACTIVATIONS[0],
        help="of --part clip: quick_gelu of OpenAI's weights, gelu of most others of open_clip",
    )  # fmt: skip
    return parser


def _write_folder(source: LazyTensors, target: Path, activation: str) -> None:
    """Write CLIP's vision tower as a folder of transformers, and print what it holds. Raises ValueError."""
    number, dropped = write_clip_folder(source, target, activation)
    size = readable_size((target / "model.safetensors").stat().st_size)
    print(f"{target}: {number} tensors of CLIP's vision tower with {activation}, {size}; "
          f"{len(dropped)} tensors of other parts left out; hf_vision reads it")  # fmt: skip


def _write_file(source: LazyTensors, kind: str, given: argparse.Namespace) -> None:
    """Write the tensors of one part as safetensors, and print what was left out. Raises ValueError."""
    target: Path = given.target
    tensors, dropped = converted(source, kind, given.source)
    tensors = tensors if given.names == "chatbridge" else released_names_of(kind, tensors, given.names)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the target must end in .safetensors")
    if target.exists():
        raise ValueError(f"{target} already exists; choose another target")
    write_safetensors(tensors, target)
    size = readable_size(target.stat().st_size)
    print(f"{target}: {len(tensors)} tensors as {kind}, {size}; {len(dropped)} tensors of other parts left out")
    for name in dropped[:5]:
        print(f"  left out: {name}")
    if kind == "beats":
        print("  the file's `cfg` is not copied: set sizes that differ from the released model in the YAML")


def converted(source: LazyTensors, kind: str, path: Path) -> tuple[State, list[str]]:
    """Return the tensors with our names, and the names of tensors of other parts.

    raises   ValueError for an unknown kind, or a file without tensors of it
    """
    if kind == "none":
        return {name: _own(source[name]) for name in source.headers}, []
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a known part; known are {', '.join(KINDS)}, clip, none (did you mean "
                         f"{nearest(kind, KINDS) or 'auto'}?)")  # fmt: skip
    registry, role = KINDS[kind]
    if is_chatbind(source.headers):
        return _of_chatbind(source, kind, path)
    if kind == "resampler":
        return _of_flamingo(source, path)
    wanted = _of_role(list(source.headers), role)
    if kind in BLIP2:
        wanted = registry.get(kind).names_within(wanted)
    elif is_textbind(source.headers):
        raise ValueError(
            f"{path}: of TextBind's weights only --part qformer is written, and with --base FOLDER --part causal_lm; "
            "run.init_from reads all of it"
        )
    if not wanted:
        raise ValueError(f"{path} has no tensor of {kind}")
    ours = registry.get(kind).convert({name: source[name] for name in wanted})
    left = [name for name in source.headers if name not in wanted]
    return {name: _own(value) for name, value in ours.items() if not KEY_BIAS.fullmatch(name)}, left


def released_names_of(kind: str, ours: State, names: str) -> State:
    """The tensors [...] of a part of BLIP-2 with the names of another library.

    raises   ValueError for another part, or a Q-Former that those libraries do not have
    """
    if kind not in BLIP2:
        raise ValueError(
            f"--names {names} is for --part {' and '.join(BLIP2)}; the names of {kind} are ChatBridge's own"
        )
    if kind == "qformer":
        return {name: _own(value) for name, value in to_released(ours, names).items()}
    surplus = ("vit.norm.", "vit.fc_norm.", "vit.head.", f"vit.blocks.{PRESETS['g'].depth}.")  # of eva_vit_g.pth
    kept = {name: value for name, value in ours.items() if not name.startswith(surplus)}
    return to_huggingface(kept) if names == "huggingface" else to_lavis(kept)


def _of_chatbind(source: LazyTensors, kind: str, path: Path) -> tuple[State, list[str]]:
    """The projector of a file with ChatBind's names, and the names of its other tensors."""
    if kind != "linear":
        raise ValueError(f"{path}: of ChatBind's weights only --part linear is written, the projector; "
                         "model.language.weights reads the folder of the whole model as it is")  # fmt: skip
    names = dict(zip(released_names(source.headers), source.headers, strict=True))
    own = projection({short: source[full] for short, full in names.items() if "mm_projector." in short})
    return {name: _own(value) for name, value in own.items()}, [one for one in source.headers if "mm_proj" not in one]


def _of_flamingo(source: LazyTensors, path: Path) -> tuple[State, list[str]]:
    """Return the resampler's tensors with our names, and the names of the others. Raises ValueError without one."""
    own = {name: resampler_of(name) for name in source.headers if resampler_of(name)}
    if "latents" not in own.values():
        raise ValueError(f"{path} has no resampler (perceiver.latents and so on)")
    tensors = {ours: _own(source[name]) for name, ours in own.items() if ours is not None}
    return tensors, [name for name in source.headers if name not in own]


def _of_role(names: list[str], role: str) -> list[str]:
    """Return all names of a file of one part, or those of the given role in a whole checkpoint."""
    prefixes = (
        "visual_encoder.",
        "ln_vision.",
        "audio_encoder.",
        "ln_audio.",
        "llama_model.",
        "Qformer.",
        "llama_proj.",
    )
    if not any(name.startswith(prefixes) for name in names):
        return names
    sides = split(dict.fromkeys(names))  # type: ignore[arg-type]  # only names are used
    return [name for name in sides.get(role, {}) if buffer_reason(name) is None]


def _own(value: Tensor) -> Tensor:
    """Return a copy: safetensors rejects tensors that share memory."""
    return value.clone().contiguous()
