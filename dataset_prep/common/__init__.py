"""What every preparation script shares: manifest, resume, safe stop, skipped.jsonl, arguments, shards, processes."""
