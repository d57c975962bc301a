"""From files to batches: sources by index, a mixture that is arithmetic, a loader that workers cannot change.

a source         builders: one file per `name:` of the YAML; formats: public layouts, for `format:`; annotations: reads
                 their files once, keeps them packed; media_paths: from names in them to files
                 piece_counts: frames and clips per item, as a source asks for them
                 unique_names: tells samples of one name apart
which sample     order: the mixture and the order within a source; config: the `data:` section
to a batch       reading: a sample, or its replacement; decoding: its media, and missing audio; packing: several
                 sequences in a row; collate: rows to a batch; loader: the worker processes
what fails       failure_log: failures.jsonl and the budget; quarantine: the list of `chatbridge data check`; workers:
                 loader workers that hang or crash
shards           tars: which samples lie where; remote_shards: https://, s3:// and pipe: shards, fetched once
"""
