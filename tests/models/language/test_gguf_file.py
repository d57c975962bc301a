"""A language model from a GGUF file: values, sizes, tokenizer and faults. The file is written as llama.cpp does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from chatbridge.cli.export_parts import copy_settings
from chatbridge.cli.weights import convert, inspect
from chatbridge.cli.weights.gguf_listing import check_gguf
from chatbridge.common.errors import ConfigError
from chatbridge.common.file_kind import read_json_object
from chatbridge.common.gguf_header import read_header
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.tokenizer_loading import read_tokenizer
from tests.helpers.gguf_files import finish, small_llama, small_model, write_gguf, write_llama

pytest.importorskip("gguf")
IDS = torch.arange(3, 40)[None]
REAL = Path(__file__).parents[3] / "data/stamps/weights/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


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
    assert (model.width, model.num_embeddings, model.end_ids, model.config.context_length) == (64, 262, (2,), 128)
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


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_families_give_the_logits_of_the_model_that_wrote_the_file(tmp_path, family):
    """Fails when biases of Qwen2, norms of Qwen3 or the width of its heads (not in transformers' table) get lost."""
    lm = small_model(family, tie_word_embeddings=True)
    with torch.inference_mode():
        expected = lm(IDS).logits
    path = write_gguf(tmp_path / "other.gguf", lm, family, pre="qwen2")
    torch.testing.assert_close(logits(loaded(path)), expected, atol=1e-5, rtol=0)


def test_weights_are_the_values_that_the_package_gguf_dequantises(tmp_path):
    """Fails when values are rounded on the way, for example read in half precision before they become fp32."""
    import gguf

    lm = small_llama()
    model = loaded(write_gguf(tmp_path / "small.gguf", lm, quantized="Q4_1"))
    kind = gguf.GGMLQuantizationType.Q4_1
    own = lm.model.layers[1].mlp.down_proj.weight.detach().numpy()
    expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(own, kind), kind))
    assert torch.equal(model.lm.model.layers[1].mlp.down_proj.weight.data, expected)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q4_K", "Q6_K"])
def test_blocks_of_every_usual_kind_have_the_values_of_the_package_gguf(tmp_path, monkeypatch, kind):
    """Fails when a kind is read with other scales. The bytes are random, as the package cannot write k-quants."""
    import gguf

    expected: dict[float, np.ndarray] = {}
    bytes_of = np.random.default_rng(0).integers

    def blocks(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
        values, size = gguf.GGML_QUANT_SIZES[kind]
        made = bytes_of(0, 256, (array.size // values, size), np.uint8)
        scales = slice(-2, None) if kind.name == "Q6_K" else slice(0, 2 if kind.name == "Q8_0" else 4)
        made[:, scales] = np.full(2, 1e-4, np.float16).view(np.uint8)[: made[:, scales].shape[1]]
        made = made.reshape(len(array), -1)
        expected[float(array.flat[0])] = gguf.quants.dequantize(made, kind)
        return made

    monkeypatch.setattr(gguf.quants, "quantize", blocks)
    lm = small_model(hidden_size=256, intermediate_size=256, num_attention_heads=16, num_key_value_heads=16)
    model = loaded(write_gguf(tmp_path / "small.gguf", lm, quantized=kind))
    own = lm.state_dict()
    for name, value in model.lm.state_dict().items():
        if value.ndim == 2 and not name.endswith(("q_proj.weight", "k_proj.weight")):  # whose rows are in another order
            assert np.array_equal(value.numpy(), expected[float(own[name].flatten()[0])]), name


def test_the_scaled_positions_of_llama_3_are_found_in_the_divisors_of_the_file(tmp_path):
    """Fails when the tensor rope_freqs is left out, as transformers' own loader does, or read as another scaling."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192, "rope_theta": 500000.0}  # fmt: skip
    lm = small_model(rope_parameters=scaling)
    plain = small_model(rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    divisors = (plain.model.rotary_emb.inv_freq / lm.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    path = write_gguf(tmp_path / "three.gguf", lm, change=lambda to: to.add_tensor("rope_freqs.weight", divisors))
    with torch.inference_mode():
        expected = lm(IDS).logits
    torch.testing.assert_close(logits(loaded(path)), expected, atol=1e-5, rtol=0)
    odd = write_gguf(tmp_path / "odd.gguf", lm, change=lambda to: to.add_tensor("rope_freqs.weight", divisors * 1.5))
    assert "unknown scaling" in problem_of(odd)


def test_digits_stand_alone_and_blanks_before_them_are_one_token(full):
    """Fails when the pre-tokenizer of SmolLM is taken for GPT-2's, as transformers does."""
    tokenizer = Tokenizer.from_pretrained(full)
    names = tokenizer.inner.convert_ids_to_tokens(tokenizer.encode("  12 th"))
    assert names == ["ĠĠ", "1", "2", "Ġth"]
    assert tokenizer.inner.get_vocab() == {token: number for number, token in enumerate(read_header(full).tokens)}


def test_a_tokenizer_folder_must_have_the_ids_of_the_file(full, tmp_path):
    """Fails when a tokenizer of another model is used beside the file, or the file's own one is refused."""
    inner = Tokenizer.from_pretrained(full).inner
    inner.save_pretrained(tmp_path / "same")
    config = CausalLM.Config(weights=full, tokenizer=tmp_path / "same", template="hf_chat")
    assert read_tokenizer(CausalLM(config)).encode("th") == [259]
    inner.add_tokens(["<new>"])
    inner.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"id 262 is None in the file, '<new>' in the folder"):
        read_tokenizer(CausalLM(replace(config, tokenizer=tmp_path / "other")))


def test_sizes_bits_and_the_end_of_a_turn(full, tmp_path):
    """Fails when an architecture of other sizes is accepted, 8 bits are dropped silently, or eot ends no answer."""
    (problem,) = CausalLM.Config(weights=full, architecture={"hidden_size": 128}).problems()
    assert "hidden_size 64, this configuration is for 128" in problem.message
    (problem,) = CausalLM.Config(weights=full, load_in_8bit=True).problems()
    assert problem.path == "load_in_8bit" and "torchao" in (problem.hint or "")
    turn = write_gguf(tmp_path / "turn.gguf", small_llama(), change=lambda to: to.add_eot_token_id(0))
    assert CausalLM(CausalLM.Config(weights=turn)).end_ids == (2, 0)


def problem_of(path: Path) -> str:
    (problem,) = CausalLM.Config(weights=path).problems()
    assert problem.path == "weights"
    return problem.message


def header_only(path: Path, family: str, order: str = "LITTLE", kind: str = "model") -> Path:
    import gguf

    writer = gguf.GGUFWriter(str(path), family, endianess=getattr(gguf.GGUFEndian, order))
    writer.add_type(kind)
    return finish(writer, path)


def test_files_that_are_no_language_model_are_named(full, tmp_path):
    """Fails when one of them ends in a traceback, or is noticed only while loading."""
    content = full.read_bytes()
    cases = {
        "zip.gguf": (b"PK\x03\x04 a zip", "is not a GGUF file, it is a zip file"),
        "empty.gguf": (b"", "is empty"),
        "header.gguf": (content[:700], "ends within its header"),
        "short.gguf": (content[:-500], "is truncated"),
        "part-00001-of-00002.gguf": (content, "one of 2 parts"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert message in problem_of(tmp_path / name)
    assert "big-endian" in problem_of(header_only(tmp_path / "big.gguf", "llama", "BIG"))
    assert "a vocabulary and no weights" in problem_of(header_only(tmp_path / "words.gguf", "llama"))
    assert "(mmproj)" in problem_of(header_only(tmp_path / "eyes.gguf", "clip"))
    assert "an adapter" in problem_of(header_only(tmp_path / "lora.gguf", "llama", kind="adapter"))
    assert "there is no file" in problem_of(tmp_path / "absent.gguf")
    other = write_gguf(tmp_path / "other.gguf", small_llama())
    other.write_bytes(other.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lllma", 1))
    assert "is of the family 'lllma'" in problem_of(other) and "similar: llama" in problem_of(other)


def test_a_tensor_that_is_not_of_the_model_is_refused(tmp_path):
    """Fails when the loader leaves it out without a word."""
    spare = np.zeros((4, 4), np.float32)
    path = write_gguf(
        tmp_path / "more.gguf", small_llama(), change=lambda to: to.add_tensor("blk.0.spare.weight", spare)
    )
    with pytest.raises(ValueError, match=r"not of this model: blk.0.spare.weight"):
        loaded(path)


def test_a_sentencepiece_vocabulary_merges_by_its_scores_and_falls_back_on_bytes(tmp_path):
    """Fails when merges are in another order, the first blank gets lost or added, or unknown letters become <unk>."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]

    def written(name: str, has_prefix: bool) -> Tokenizer:
        import gguf

        writer = gguf.GGUFWriter(str(tmp_path / name), "llama")
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 259 + [-9.0, -9.0, -9.0, -1.0, -2.0, -3.0])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 6)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(has_prefix)
        return Tokenizer.from_pretrained(finish(writer, tmp_path / name))

    with_prefix, without = written("with.gguf", True), written("without.gguf", False)
    names = with_prefix.inner.convert_ids_to_tokens
    assert names(with_prefix.encode("ab aé")) == ["▁ab", "▁a", "<0xC3>", "<0xA9>"]
    assert names(without.encode("ab a")) == ["ab", "▁a"]
    for text in ("ab a", "<s> a", " b"):
        assert with_prefix.decode(with_prefix.encode(text)) == text
        assert without.decode(without.encode(text)) == text and 1 not in without.encode(text)
    assert (without.bos_id, without.eos_id) == (1, 2)


def test_an_export_writes_the_settings_and_the_tokenizer_of_the_file(full, tmp_path):
    """Fails when an export looks for settings beside the file, as it does in a folder."""
    copy_settings(CausalLM(CausalLM.Config(weights=full)), full, tmp_path, torch.bfloat16)
    assert read_json_object(tmp_path / "config.json")["dtype"] == "bfloat16"
    assert Tokenizer.from_pretrained(tmp_path).encode("th") == [259]


def test_torchao_stores_the_dequantised_weights_in_8_bits(full):
    """Fails when the accepted quantizer is not in effect for a GGUF file, or breaks its values."""
    pytest.importorskip("torchao")
    config = CausalLM.Config(weights=full, load_in_8bit=True, quantizer="torchao")
    assert list(config.problems()) == []
    model = CausalLM(config)
    model.requires_grad_(False)
    assert "in 8 bit by torchao" in model.load(torch.device("cpu"), torch.float32)
    difference = (logits(model) - logits(loaded(full))).abs().max()
    assert 0 < difference < 0.05


def test_inspect_check_and_convert_read_the_file(full, tmp_path, capsys):
    """Fails when the folder has other values or another tokenizer than the file, or its names are not compared."""
    assert inspect.main([str(full)]) == 0
    shown = capsys.readouterr().out
    assert "2 layers" in shown and "pre-tokenizer smollm" in shown and "causal_lm reads it" in shown
    model = CausalLM(CausalLM.Config(weights=full))
    found = check_gguf(full, model.lm.state_dict(), set())
    assert found.problems == [] and found.num_loaded == len(read_header(full).tensors)
    assert convert.main([str(full), str(tmp_path / "folder")]) == 0
    torch.testing.assert_close(logits(loaded(tmp_path / "folder")), logits(loaded(full)), atol=1e-6, rtol=0)
    there, here = Tokenizer.from_pretrained(tmp_path / "folder"), Tokenizer.from_pretrained(full)
    assert there.encode("  12 the <|im_end|>") == here.encode("  12 the <|im_end|>")
    assert there.inner.chat_template == here.inner.chat_template and there.eos_id == 2
    with pytest.raises(ValueError, match="does not exist yet"):
        convert.main([str(full), str(tmp_path / "folder")])


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="SmolLM2 is fetched by python -m dataset_prep.stamps.fetch")
def test_smollm2_gives_transformers_own_logits_and_answers_a_question():
    """Fails when a size, a tensor, the tokenizer or the template of a real file is read in another way."""
    model = loaded(REAL)
    own = AutoModelForCausalLM.from_pretrained(str(REAL.parent), gguf_file=REAL.name, dtype=torch.float32)
    tokenizer = Tokenizer.from_pretrained(REAL)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.inner.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.inner(text, return_tensors="pt").input_ids
    assert ids.shape == (1, 37)
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(model(model.embed(ids))), own(ids).logits, atol=1e-5, rtol=0)
        while (ids[0, -1] not in model.end_ids and ids.shape[1] < 60) or ids.shape[1] == 37:
            ids = torch.cat([ids, model.logits(model(model.embed(ids)))[:, -1:].argmax(-1)], 1)
    assert tokenizer.decode(ids[0, 37:].tolist()) == "The capital of France is Paris."
