"""ChatBind's delta through `chatbridge weights apply-delta`, from folders as the hub has them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from chatbridge.cli.weights.delta import apply_delta
from chatbridge.models.lazy_tensors import LazyTensors
from tests.parity.golden import Check


def delta(check: Check) -> None:
    """The sum in fp16 bit for bit: taller embeddings, the projector and buffers of zero difference included."""
    with TemporaryDirectory(prefix="chatbridge-parity-") as folder:
        base, change = (_folder(Path(folder) / part, check.golden.inputs, f"{part}.") for part in ("base", "delta"))
        with redirect_stdout(io.StringIO()):
            apply_delta(base, change, Path(folder) / "target", shard_bytes=4000)
        got = LazyTensors(Path(folder) / "target")
        check.equal("names", sorted(got.headers), sorted(check.golden.outputs))
        for name, want in check.golden.outputs.items():
            check.close(name, got[name])
            check.equal(f"{name}: bits", (got[name].dtype, torch.equal(got[name], want)), (want.dtype, True))


def _folder(path: Path, tensors: Mapping[str, Tensor], prefix: str) -> Path:
    """A model folder with pickled shards and their index."""
    path.mkdir()
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    files = {name: f"pytorch_model-{number % 2 + 1:05d}-of-00002.bin" for number, name in enumerate(own)}
    for file in set(files.values()):
        torch.save({name: value for name, value in own.items() if files[name] == file}, path / file)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}), encoding="utf-8")
    return path
