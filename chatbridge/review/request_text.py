"""The text of a review request, equal to that of the released script byte for byte."""

from __future__ import annotations

from chatbridge.review.input_files import ImageContext, Rule

# the system message of the released script
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."


def request_text(question: str, context: ImageContext | None, rule: Rule, answers: tuple[str, str]) -> str:
    """What the judge reads: the description of the image, the question, both answers and the task.

    context   None leaves the section out, as the released script for text-only questions does
    """
    sections = [] if context is None else [f"[Context]\n{context_text(context)}"]
    sections.append(f"[Question]\n{question}")
    for number, answer in enumerate(answers, start=1):
        name = f"{rule.role} {number}"
        sections.append(f"[{name}]\n{answer}\n\n[End of {name}]")
    sections.append(f"[System]\n{rule.prompt}")
    return "".join(f"{section}\n\n" for section in sections)


def context_text(context: ImageContext) -> str:
    """Captions, an empty line, and a line per box; without boxes the captions alone."""
    captions = "\n".join(context.captions)
    boxes = "\n".join(f"{category}: {list(box)}" for category, box in context.boxes)
    return f"{captions}\n\n{boxes}" if boxes else captions
