"""Look at the data of a run before it starts: check it, show a sample, count tokens, index shards."""
