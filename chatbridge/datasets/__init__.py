"""From files to batches: sources by index, an order that is arithmetic, workers that cannot change it.

a source    builders: one file per `name:` of the YAML; formats: layouts of annotation files, for `format:`;
            packed_records: their records in one block of bytes; media_paths: from names in them to files; piece_counts:
            frames and clips per item of a source; unique_names: numbers for repeated sample names
the order   config: the `data:` section; build_mixture: from that section to a mixture; order: mixture, and order
            within a source
a batch     sample_reader: a sample, or its replacement; decoding: its media, and missing audio; batching: padded,
            grouped or packed; draw_lengths: lengths without media; shared_lengths: measured once for all ranks;
            shared_ids: and their texts tokenized once; packing: several conversations in one token sequence; collate:
            token sequences to a batch; padding_share: how much of it is padding; loader: the steps of a rank;
            validation_loader: the held-out samples
features    feature_cache: outputs of frozen encoders, stored once and read in place of media
failures    failure_log: failures.jsonl and the failure budget; quarantine: samples that are not opened; workers: loader
            workers that hang or crash
shards      tars: samples in tar files; remote_shards: shards at https://, s3:// and pipe: addresses
"""
