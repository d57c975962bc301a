"""What every preparation script shares: manifest, resume, progress, safe stop, skipped.jsonl, arguments, shards."""
