"""A language model from a GGUF file: values, sizes, tokenizer and faults. The file is written as llama.cpp does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.tokenizer_loading import read_tokenizer
from tests.helpers.gguf_files import small_llama, write_llama

pytest.importorskip("gguf")
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("gguf") / "small.gguf", small_llama())


def loaded(path: Path, dtype: torch.dtype = torch.float32) -> CausalLM:
    model = CausalLM(CausalLM.Config(weights=path, template="hf_chat"))
    model.requires_grad_(False)
    model.load(torch.device("cpu"), dtype)
    return model


def logits(model: CausalLM) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model(model.embed(IDS)))


def test_an_f32_file_gives_the_logits_of_the_model_that_wrote_it(full):
    """Fails when rows of the query or key projection stay in llama.cpp's order, or a size of the header is lost."""
    with torch.inference_mode():
        expected = small_llama()(IDS).logits
    torch.testing.assert_close(logits(loaded(full)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_a_quantised_file_gives_the_logits_of_transformers_own_loader(tmp_path, kind):
    """Fails when the rebuilt model misses a tensor, a tied head or a buffer of the one that transformers loads."""
    path = write_llama(tmp_path / "small.gguf", small_llama(), kind)
    with torch.inference_mode():
        own = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file=path.name, dtype=torch.float32)(IDS).logits
    torch.testing.assert_close(logits(loaded(path)), own, atol=1e-5, rtol=0)


def test_frozen_weights_have_the_dtype_of_the_run_and_the_header_alone_gives_the_sizes(full):
    """Fails when dequantised weights stay in fp32, or building the model reads them."""
    model = CausalLM(CausalLM.Config(weights=full, template="hf_chat"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (model.width, model.num_embeddings, model.end_ids, model.config.context_length) == (64, 260, (2,), 128)
    assert {parameter.dtype for parameter in loaded(full, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_the_tokenizer_and_its_chat_template_come_from_the_file(full):
    """Fails when the tokenizer is looked for beside the file, or text that reads like a special token becomes one."""
    tokenizer = read_tokenizer(CausalLM(CausalLM.Config(weights=full, template="hf_chat")))
    ids = tokenizer.encode("a <|im_end|>")
    assert tokenizer.decode(ids) == "a <|im_end|>" and 2 not in ids
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert "<|im_start|>assistant" in tokenizer.inner.chat_template


def test_the_loaded_model_is_a_plain_one_that_can_be_saved(full, tmp_path):
    """Fails when the model remembers GGUF's quantization, with which transformers refuses to save it."""
    loaded(full).lm.save_pretrained(tmp_path)
    with torch.inference_mode():
        again = AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits
    torch.testing.assert_close(again, logits(loaded(full)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("content", "message"), [(b"PK\x03\x04 a zip", "is not a GGUF file"), (None, "truncated or damaged")]
)
def test_a_file_that_is_no_whole_gguf_is_a_problem_of_the_setting(full, tmp_path, content, message):
    """Fails when a wrong or truncated file ends in a traceback, or is noticed only while loading."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(full.read_bytes()[:700] if content is None else content)
    (problem,) = CausalLM.Config(weights=path, template="hf_chat").problems()
    assert problem.path == "weights" and message in problem.message
