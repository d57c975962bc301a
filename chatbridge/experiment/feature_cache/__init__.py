"""The feature cache of a run: which modalities may use it, how it is built, and the processors that read from it.

Keys, shards and the rules for stale entries are in datasets/feature_cache/, encoding in models/feature_cache.py.
"""
