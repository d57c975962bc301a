"""Shared code of the preparation scripts: arguments, manifest, resume, safe stop, shards, process pool."""
