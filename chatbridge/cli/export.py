"""`chatbridge export RUN --out FOLDER [--merge]`: what a run trained, for programs other than ChatBridge; with `--hf`
and `--vllm` the whole model, for transformers and for serving through vLLM."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from chatbridge.cli.arguments import whole
from chatbridge.cli.export_chatbind import LAYOUTS, chatbind_part
from chatbridge.cli.export_flamingo import LAYOUTS as FLAMINGO
from chatbridge.cli.export_flamingo import flamingo_part
from chatbridge.cli.export_hf import hf_part
from chatbridge.cli.export_parts import Part, exported_parts
from chatbridge.cli.export_source import open_source
from chatbridge.cli.export_textbind import LAYOUTS as TEXTBIND
from chatbridge.cli.export_textbind import textbind_part
from chatbridge.cli.export_vllm import vllm_part
from chatbridge.cli.weights.shard_writer import SHARD_BYTES
from chatbridge.common.errors import ConfigError, DataError, nearest
from chatbridge.common.safe_files import underlying_os_error
from chatbridge.models.checkpoints import CHECKPOINTS, checkpoints, find_checkpoint
from chatbridge.models.tensor_headers import readable_size
from chatbridge.runners.run_folder import is_in_use

DTYPES = ("keep", "fp32", "bf16", "fp16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the trained components of a run or checkpoint to a new folder: a language model as a Hugging Face folder,
    its adapters as a peft folder (or merged into the weights with --merge), the others as safetensors with our names.
    """
    given = _parser().parse_args(arguments)
    try:
        return export(given)
    except (ConfigError, DataError):
        raise
    except ValueError as error:  # an unusable checkpoint, weights that are others
        raise DataError(str(error)) from error


def export(given: argparse.Namespace) -> int:
    """Write the parts that the command line chooses. Returns the exit code. raises ValueError"""
    out: Path = given.out or given.hf or given.vllm
    if out.exists():
        raise ValueError(f"{out} already exists; choose another folder")
    chosen = _parts(given)
    with _whole_folder(out, sum(part.num_bytes for part in chosen)) as folder:
        for part in chosen:
            alone = len(chosen) == 1 and part.is_folder
            part.write(folder if alone else folder / part.file_name, given.shard_bytes)
    for part in chosen:
        alone = len(chosen) == 1 and part.is_folder
        print(f"{part.name}: {part.said(out if alone else out / part.file_name)}")
    return 0


def _parts(given: argparse.Namespace) -> list[Part]:
    """The parts to write. raises ValueError for options that exclude each other"""
    if given.base is not None and given.layout != "chatbind-delta":
        raise ValueError("--base is the model that a delta belongs to; it needs --layout chatbind-delta")
    if given.hf is not None or given.vllm is not None:
        return [_whole_model(given)]
    if given.layout == "chatbridge":
        parts = exported_parts(_complete(given.checkpoint), given.merge, given.dtype, given.options)
        return _chosen(parts, given.component)
    if given.component:
        raise ValueError(f"--layout {given.layout} is one whole; leave --component out")
    source = open_source(_complete(given.checkpoint), given.dtype, given.options)
    if given.layout in FLAMINGO:
        return [flamingo_part(source, given.layout, given.merge)]
    if source.adapted and not given.merge:
        raise ValueError(f"--layout {given.layout} has no adapters; add them to the weights with --merge")
    if given.layout in TEXTBIND:
        return [textbind_part(source, given.layout)]
    return [chatbind_part(source, given.layout, given.base)]


def _whole_model(given: argparse.Namespace) -> Part:
    """What --hf or --vllm writes. raises ValueError for options of a part of the model"""
    others = {"--layout": given.layout != "chatbridge", "--component": bool(given.component)}
    if named := [name for name, is_given in others.items() if is_given]:
        option = "--hf" if given.hf is not None else "--vllm"
        raise ValueError(f"{option} writes the whole model; leave {' and '.join(named)} out")
    checkpoint = find_checkpoint(_complete(given.checkpoint))
    source = open_source(checkpoint, given.dtype, given.options)
    return vllm_part(source, checkpoint) if given.hf is None else hf_part(source, checkpoint, given.options)


def _complete(path: Path) -> Path:
    """The path itself; of a run that is still training its newest complete checkpoint, which is told.

    raises   ValueError when such a run has none yet
    """
    if not is_in_use(path):
        return path
    found = checkpoints(path / CHECKPOINTS)
    if not found:
        raise ValueError(f"{path} is still training and has no complete checkpoint yet; wait for the first one")
    print(f"{path} is still training; exporting its newest complete checkpoint, {found[-1].name}", flush=True)
    return found[-1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chatbridge export", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="RUN", help="a run folder (its newest checkpoint) or a step_*")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="a folder that does not exist yet")
    target.add_argument(
        "--hf", type=Path, metavar="DIR",
        help="write the whole model, adapters merged, to DIR, which does not exist yet, for transformers: "
        "AutoModelForMultimodalLM and AutoProcessor with trust_remote_code=True; the code is in DIR too",
    )  # fmt: skip
    target.add_argument(
        "--vllm", type=Path, metavar="DIR",
        help="write the whole model for serving through vLLM to DIR, which does not exist yet: DIR/language_model, "
        "adapters merged, for `vllm serve`, and DIR/front for `chatbridge serve --checkpoint DIR/front --vllm-url URL`",
    )  # fmt: skip
    parser.add_argument("--merge", action="store_true", help="add the adapters to the weights of their layers")
    parser.add_argument(
        "--component", action="append", metavar="NAME",
        help="language, bridges.perceiver, ...; can be repeated; default: all that were trained. One that is a folder "
        "by itself is written to OUT directly",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="of the tensors; keep: as in the weights files")
    parser.add_argument(
        "--layout", choices=(*LAYOUTS, *FLAMINGO, *TEXTBIND), default="chatbridge",
        help="chatbind: the merged model as ChatBind's code reads it; chatbind-projector: its mm_projector.bin; "
        "chatbind-delta: the difference of the merged model to --base; mmgpt: the adapters as Multimodal-GPT's code "
        "reads them; openflamingo: its base; textbind-stage1: Q-Former and projection as TextBind's code reads them; "
        "textbind: the language model too; default: one file or folder per component",
    )  # fmt: skip
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="of --layout chatbind-delta: LLaMA, for example")
    parser.add_argument("--shard-bytes", type=whole(1, 10**15), default=SHARD_BYTES, help="largest size of a file")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE",
        help="the new place of weights that moved: model.language.weights=/data/vicuna",
    )  # fmt: skip
    return parser


def _chosen(parts: Sequence[Part], wanted: Sequence[str] | None) -> list[Part]:
    """The parts to write. raises ValueError for a component that was not trained"""
    names = [part.name for part in parts]
    for name in wanted or ():
        if name not in names:
            guess = nearest(name, names)
            hint = f"; did you mean {guess}?" if guess else ""
            raise ValueError(f"--component {name}: nothing of it was trained; trained are {', '.join(names)}{hint}")
    return [part for part in parts if not wanted or part.name in wanted]


@contextmanager
def _whole_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """A temporary folder that becomes `target` when everything has been written to it; on an error nothing is left.

    raises   ValueError when the disk is too small, or a file cannot be written
    """
    parent = target.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    needed = f"{target} needs about {readable_size(num_bytes)}"
    if (free := shutil.disk_usage(parent).free) < num_bytes:
        raise ValueError(f"{needed}, {readable_size(free)} are free; free disk space, or choose another folder")
    temporary = parent / f".exporting_{target.name}_{os.getpid()}"
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        system = underlying_os_error(error)
        reason = system.strerror if system is not None and system.strerror else str(error).splitlines()[0]
        free = shutil.disk_usage(parent).free
        raise ValueError(
            f"{target} could not be written: {reason} ({needed}, {readable_size(free)} are free); the incomplete "
            "folder was removed"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
