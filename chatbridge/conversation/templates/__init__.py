"""Chat templates: from a typed conversation to the text and media spans that a language model was trained on."""

from chatbridge.conversation.templates.base import TEMPLATES, Template, build_template

__all__ = ["TEMPLATES", "Template", "build_template"]
