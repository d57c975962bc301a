"""vis_processor and text_processor of a data set: preprocessing is the encoder's here, texts are the builder's."""

from __future__ import annotations

from chatbridge.cli.migrate.migration import Migration


def processor_rows(m: Migration, name: str, source: str, cleans: bool) -> None:
    """Rows of vis_processor, text_processor, data_type and the like."""
    at = f"datasets.{name}"
    encoder = f"model.encoders.{m.family.vision}"
    for part in ("train", "eval"):
        image = f"{at}.vis_processor.{part}"
        if m.has(f"{image}.name"):
            if m.family.is_lavis and part == "train":
                note = (
                    "images are resized to a square; LAVIS also crops and flips them at random, which has no key here"
                )
                m.no_equal(f"{image}.name", note)
            else:
                m.taken(f"{image}.name", f"{encoder}.train_resize: bicubic")
        if m.has(f"{image}.image_size"):
            size = m.value(f"{image}.image_size")
            if part == "train" and m.original.get("model", "image_size") in (None, size):
                m.taken(f"{image}.image_size", m.set(f"{encoder}.image_size", size))
            else:
                m.changed(f"{image}.image_size", f"{encoder}.image_size", "one size for training and evaluation")
        m.not_needed(image, "the original does not use it")
        text = f"{at}.text_processor.{part}"
        if m.has(f"{text}.name"):
            if cleans and part == "train":
                m.taken(f"{text}.name", f"data.sources.{source}.cleaner: minigpt4")
            elif m.family.is_minigpt4 or part == "eval":
                m.not_needed(f"{text}.name", "the original does not apply it to this data set, or not in training")
        if m.value(f"{text}.max_words") == 50:
            m.not_needed(f"{text}.max_words", "captions of more than 50 words are cut by the template's max_tokens")
    m.not_needed(f"{at}.vis_processor", "the original does not use it")
    for key in ("data_type", "type", "config_path"):
        m.not_needed(f"{at}.{key}", "the builder of the source decides")


def request_rows(m: Migration, name: str, sources: list[str], builder: str) -> None:
    """The request before a caption, and how texts are cleaned."""
    at = f"datasets.{name}.text_processor.train"
    prompt = m.value(f"{at}.prompt")
    for source in sources:
        if builder == "captions" and prompt:
            m.target.set(f"data.sources.{source}.tag", "ti-cap")
            m.target.set(f"data.sources.{source}.clean", True)
            m.target.set(f"data.sources.{source}.prompt", str(prompt).strip())
    if m.has(f"{at}.prompt"):
        note = "text between image and caption that is not supervised" if prompt else ""
        m.taken(f"{at}.prompt", f"data.sources.{sources[0]}.prompt", note)
    if m.has(f"{at}.name"):
        if builder == "captions":
            here, note = (
                f"data.sources.{sources[0]}.clean: true",
                "lower case; other characters are stripped than in blip_caption",
            )
        else:
            here, note = "", "questions and answers are used as they are, not in lower case"
        m.changed(f"{at}.name", here, note)
