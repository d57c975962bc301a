"""Components with the sizes of the reference's golden tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatbridge.models.encoders._beats_checkpoint import sizes_from_cfg
from chatbridge.models.encoders.beats import BEATs
from chatbridge.models.encoders.eva_vit import EvaViT
from tests.parity.golden import Golden, read_golden
from tests.parity.vision import eva_settings


def golden(reference: Path, case: str) -> Golden:
    return read_golden(reference / "golden" / f"chatbridge_{case}.json")


def eva_of(sizes: dict[str, Any], **more: Any) -> EvaViT:
    return EvaViT(EvaViT.Config(**eva_settings(sizes, **more))).eval()


def beats_of(sizes: dict[str, Any], **more: Any) -> BEATs:
    return BEATs(BEATs.Config(mel_bins=sizes["num_mel_bins"], **sizes_from_cfg(sizes), **more)).eval()
