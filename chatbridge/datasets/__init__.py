"""From files to batches: sources by index, a mixture that is arithmetic, a loader that workers cannot change.

a source         builders: one file per `name:` of the YAML; formats: public layouts, for `format:`; annotations: reads
                 their files once, keeps them packed; media_paths: from names in them to files
                 piece_counts: frames and clips per item, as a source asks for them
which sample     mixture: the order of a run; shares: from weights to shares; arrangement, permutation: the order within
                 a source; sources: builds all of it from the `data:` section
                 unique_names: tells samples of one name apart
to a batch       reading: a sample, or its replacement; decoding: its media, and sound that is missing; packing:
                 several sequences in a row; collate: rows to a batch; loader: the worker processes
what fails       ledger: failures.jsonl and the budget; quarantine: the list of `chatbridge data check`; time_limit: for
                 one sample; watch, supervision: workers that hang or crash; torch_workers, plain_workers: starting them
                 by torch's DataLoader or without it
tar shards       shards: patterns to files; tar_names, tar_scan, tar_index: which samples lie where, and what belongs to
                 none; indexing: many tars at once; files: reading pieces of them
remote shards    addresses: https://, s3://, pipe:; streams, transport: fetching one; shard_cache, locks: where they are
                 kept; shard_facts: how many samples each has; remote: shards by number; windows: their bounded shuffle;
                 permissions: --allow-pipe, and nothing remote for commands that only look
"""
