"""Tokenizer folders of both kinds behave like the slow Llama tokenizer: segment by segment, text stay text."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from chatbridge.common.errors import ConfigError
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
SEGMENTS = json.loads((FOLDER / "segments.json").read_text())


@pytest.fixture(scope="module")
def llama() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE saved as `tokenizer.json`, with special tokens of its own and no padding token."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator([text for text, _ in SEGMENTS] * 4, trainer)
    folder = tmp_path_factory.mktemp("byte_level")
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("text", "ids"), SEGMENTS)
def test_segments_as_sentencepiece(llama: Tokenizer, text: str, ids: list[int]):
    """Fails when a segment loses its dummy prefix, gains a special token, or text turns into one."""
    assert llama.encode(text) == ids


def test_saved_again_is_the_same(llama: Tokenizer, tmp_path: Path):
    """Fails when a folder saved again (tokenizer.json) or a worker's pickled copy reads segments differently."""
    Tokenizer.from_pretrained(FOLDER).inner.save_pretrained(tmp_path)
    again, copy = Tokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(llama))
    for text, ids in SEGMENTS:
        assert again.encode(text) == ids
        assert copy.encode(text) == ids


def test_special_ids(llama: Tokenizer, byte_level: Tokenizer):
    """Fails when padding does not fall back to the end of sequence, or the count misses added tokens."""
    assert (llama.bos_id, llama.eos_id, llama.pad_id, llama.vocab_size) == (1, 2, 2, 400)
    assert (byte_level.bos_id, byte_level.eos_id, byte_level.pad_id) == (0, 1, 1)


def test_byte_level_text_stays_text(byte_level: Tokenizer):
    """Fails when text that reads like a special token becomes one, or does not come back as it was."""
    for text, _ in SEGMENTS:
        ids = byte_level.encode(text)
        assert not {byte_level.bos_id, byte_level.eos_id} & set(ids)
        assert byte_level.decode(ids) == text


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
def test_stops_are_found_in_real_answers(kind: str, request: pytest.FixtureRequest):
    """Fails when the ids of an answer in training do not end with one of the stop sequences."""
    tokenizer = request.getfixturevalue(kind)
    layout = Layout(build_template("vicuna_v0"), tokenizer, {})
    for answer in ("A red circle.\n###", "two###", "###", "blue\n###", "Is it loud?###"):
        ids = tuple(tokenizer.encode(answer))
        assert any(ids[-len(stop) :] == stop for stop in layout.stop_ids), (answer, ids)
        assert layout.finish([*ids, tokenizer.eos_id]) == answer.removesuffix("###").strip()
    assert (tokenizer.eos_id,) in layout.stop_ids


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
def test_a_stop_string_is_found_as_soon_as_it_is_there(kind: str, request: pytest.FixtureRequest):
    """Fails when an answer continues after its stop string because the tokens there are others than the usual ones."""
    tokenizer = request.getfixturevalue(kind)
    layout = Layout(build_template("vicuna_v0"), tokenizer, {})
    for answer in ("A red circle.\n###Human: and", "two####", "ünd ###\n\n", "### ###", "a # b ## c###d"):
        ids = tokenizer.encode(answer)
        found = [end for end in range(1, len(ids) + 1) if layout.stops.end(list(ids[:end])) is not None]
        assert found[0] == next(end for end in range(1, len(ids) + 1) if "###" in tokenizer.decode(ids[:end])), answer
        assert layout.finish(ids[: found[0]]) == answer.partition("###")[0].strip()


def test_missing_folder_is_reported(tmp_path: Path):
    """Fails when a wrong path ends in a download, or the message does not name it."""
    with pytest.raises(ConfigError, match="nowhere"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has no tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
    shutil.copy(FOLDER / "tokenizer_config.json", tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokenizer.from_pretrained(tmp_path)


def test_public_llama_vocabulary(reference: Path, tmp_path: Path):
    """Fails when the published tiny SentencePiece model reads differently from sentencepiece itself."""
    sentencepiece = pytest.importorskip("sentencepiece")
    shutil.copy(reference / "files" / "chatbind_tiny_tokenizer.model", tmp_path / "tokenizer.model")
    shutil.copy(FOLDER / "tokenizer_config.json", tmp_path / "tokenizer_config.json")
    reader = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for text, _ in SEGMENTS:
        assert tokenizer.encode(text) == reader.encode(text)
