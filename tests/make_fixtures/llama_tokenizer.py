"""Make tests/fixtures/tiny_llama_tokenizer: a small SentencePiece vocabulary with the settings of Llama's.

The ids beside it (segments.json) come from sentencepiece itself, the library behind the slow Llama tokenizer that
ChatBridge was trained with. Run once: python tests/make_fixtures/llama_tokenizer.py
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
LINES = [
    "###Human: Given following image: .###Human: What is this?###Assistant:A red circle moves to the left.",
    "###Human: Given following video:  and its background audio: .###Human: What do you hear?###Assistant:A siren.",
    "the small blue square is below the large green triangle and a tone goes up\n",
    "Describe the image in a concise sentence. Two beats, then noise. Yes. No.",
]
SEGMENTS = [
    "###Human: Given following image: ",
    " and its background audio: ",
    ".###Human: What is this?###Assistant:",
    "A red circle.\n###",
    "Human: And now?###Assistant:",
    "###",
    "\n",
    "  two blanks",
    "a</s>b",
    "<s>",
    "<query> <image>",
    "é漢🙂",
    "",
]


def main() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 20), model_writer=model, model_type="bpe", vocab_size=400, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
    )  # fmt: skip
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "tokenizer.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
    reader = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    lines = [json.dumps([text, reader.encode(text)], ensure_ascii=False) for text in SEGMENTS]
    (FOLDER / "segments.json").write_text("[\n " + ",\n ".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
