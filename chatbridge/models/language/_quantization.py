"""Load a frozen language model in 8 or 4 bits with bitsandbytes, or in 8 with torchao: a half or a quarter of bf16.

8 bits: LLM.int8 (Dettmers et al. 2022). 4 bits: NF4 with double quantization, as in QLoRA (Dettmers et al. 2023).
Embeddings, norms and the head keep their dtype. The weights cannot be trained; adapters beside them can.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import nn

from chatbridge.common.bitsandbytes_support import bitsandbytes_obstacle
from chatbridge.common.extras import need


def quantization(
    bits: int | None, lm: nn.Module, device: torch.device, dtype: torch.dtype
) -> tuple[str, dict[str, Any]]:
    """The end of the log line of loading a language model, and the arguments of `from_pretrained`.

    bits     of the stored weights, 8 or 4; None: they keep their dtype
    lm       the empty model, with its trainable parameters marked
    dtype    of the products of weights in 4 bits
    raises   ValueError when a parameter is trainable, or 4 bits are not available; 8 bits are then a remark
    """
    if bits is None:
        return "", {}
    _check_frozen(lm, bits)
    reason = bitsandbytes_obstacle(bits, device.type)
    if reason is None:
        return f", in {bits} bit", arguments(bits, device, dtype)
    if bits == 4:  # chosen because nothing larger fits
        raise ValueError(f"language: load_in_4bit: {reason}; or set it to false, to use the weights as they are")
    return f"; load_in_8bit is NOT in effect: {reason}", {}


def _check_frozen(lm: nn.Module, bits: int) -> None:
    if any(parameter.requires_grad for parameter in lm.parameters()):
        raise ValueError(
            f"language: load_in_{bits}bit stores the weights in {bits} bit, which cannot be trained; set it to false, "
            "or remove the language model from trainable; adapters (model.adapters) can be trained beside them"
        )


def store_in_int8(lm: Any) -> str:
    """Store the linear layers of a loaded language model in int8 with torchao, one scale per row; the head and the
    embedding keep their dtype. It works on every device.

    returns  the end of the log line
    raises   ValueError when a parameter is trainable, or torchao is not installed
    """
    _check_frozen(lm, 8)
    try:
        quantize: Any = need("torchao.quantization", "model.language.quantizer: torchao")
    except ImportError as error:
        raise ValueError(f"language: {error}") from None
    head = lm.get_output_embeddings()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels for other devices
        quantize.quantize_(
            lm,
            quantize.Int8WeightOnlyConfig(),
            lambda module, name: isinstance(module, nn.Linear) and module is not head,
        )
    lm.is_loaded_in_8bit = True  # what fingerprints ask
    return ", in 8 bit by torchao"


def settle(lm: nn.Module) -> None:
    """Make a language model in 4 bits compute the same with and without gradients.

    On a CPU with bf16 instructions bitsandbytes repacks a weight in place at the first call without a gradient. From
    then on its product is one in bf16, has no gradient, and fails for sizes that are no multiple of 32.
    """
    for module in lm.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # an attribute, not a submodule


def arguments(bits: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that load into 8 or 4 bits on one device."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # a line for every product in fp32
    from transformers import BitsAndBytesConfig

    if bits == 8:
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": settings, "device_map": {"": device}}
