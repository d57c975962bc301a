"""README.md and requirements.txt of an exported folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from chatbridge.cli.export_hf_code import packages
from chatbridge.cli.export_source import Source
from chatbridge.conversation.layout import Layout

NAMES = {"PIL": "pillow", "av": "av", "soundfile": "soundfile"}  # import name -> name in the index, where they differ
READERS = {"video": ("av",), "audio": ("soundfile", "torchaudio"), "image": ("pillow",)}
FILES = {"image": "photo.jpg", "video": "clip.mp4", "audio": "sound.wav"}


def requirements(files: Iterable[str]) -> str:
    """The packages of the code, in the versions that wrote the folder as the lowest ones."""
    texts = list(files)
    wanted = {NAMES.get(name, name) for name in packages(texts)} | {"safetensors", "accelerate", "pillow"}
    for readers in READERS.values():
        wanted |= {name for name in readers if any(name in text for text in texts)}
    return "".join(f"{name}{_at_least(name)}\n" for name in sorted(wanted))


def _at_least(name: str) -> str:
    try:
        return f">={version(name).partition('+')[0]}" if name in ("transformers", "timm") else ""
    except PackageNotFoundError:
        return ""


def model_card(source: Source, layout: Layout, text_config: Mapping[str, Any]) -> str:
    """What the model is, how transformers asks it, and what is different from ChatBridge."""
    config, modalities = source.model.config, list(source.model.config.routes)
    rows = "\n".join(
        f"| {modality} | {config.encoders[route.encoder].name} | {config.bridges[route.bridge].name} | "
        f"{layout.media_lengths[modality]} |"
        for modality, route in config.routes.items()
    )
    sizes = f"{text_config.get('model_type')}, width {text_config.get('hidden_size', '?')}"
    return f"""---
library_name: transformers
pipeline_tag: any-to-any
---

# A ChatBridge model for transformers

Exported by `chatbridge export --hf` from step {source.manifest.get("step")} of a training. The code in this folder is
a copy of the modules of ChatBridge that it needs, under ChatBridge's licence (LICENSE); weights keep their own.

| media | encoder | bridge | tokens of an item |
|---|---|---|---|
{rows}

Language model: {sizes}. Conversation format: `{type(layout.template).__module__.rpartition(".")[2]}`.

```python
from transformers import AutoModelForMultimodalLM, AutoProcessor

folder = "."  # of this README
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
messages = {_example(modalities)}
inputs = processor.apply_chat_template(
    messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
).to(model.device)
print(processor.answers(model.generate(**inputs), inputs)[0])
```

`pip install -r requirements.txt` installs what it needs.

- Content of a part: a path, bytes, a data URL, a PIL image, an array, or for audio `(waveform, rate)`. Addresses of the
  network are not opened.
- A list of conversations is a batch, padded on the left. Text that reads like a marker or a separator stays text.
- `generate` takes what transformers' takes; answers end at the format's stop strings. Greedy answers and beams equal
  those of ChatBridge in fp32; sampled ones with `generate(..., do_sample=True, seed=7)`. The repetition penalty counts
  the tokens of the answer alone.
- Without `add_generation_prompt` a conversation that ends with an answer gives `labels`, for training.
"""


def _example(modalities: Iterable[str]) -> str:
    parts = [{"type": name, "path": FILES[name]} for name in modalities if name in FILES][:1]
    content = [*parts, {"type": "text", "text": "What is this?" if parts else "Hello!"}]
    return json.dumps([{"role": "user", "content": content}])


__all__ = ["model_card", "requirements"]
