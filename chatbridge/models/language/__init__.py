"""Language models. One file per kind; the file name is the name in YAML."""

from chatbridge.models.language.base import LANGUAGES, GenerateOptions, LanguageConfig, LanguageModel

__all__ = ["LANGUAGES", "GenerateOptions", "LanguageConfig", "LanguageModel"]
