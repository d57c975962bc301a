"""A plugin for tests with a fusion inside the language model."""
