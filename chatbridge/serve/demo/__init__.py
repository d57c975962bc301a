"""The demo: a page in the browser to talk to a model, see what it was given, and compare two models."""
