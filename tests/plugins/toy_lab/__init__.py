"""A plugin: a template that draws, and a generator that needs no weights."""
