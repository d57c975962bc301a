"""Samples in uncompressed tar files (the webdataset layout), read by position.

patterns           from a pattern of the YAML to files
scan               one pass over the headers of a tar: its samples, and where it is damaged
sample_names       from the names in a tar to samples: where a key ends, which files belong to no sample
index              the side index of a tar: a fixed-width row per sample
parallel_indexing  the indexes of many tars, made by several processes
local_shards       indexed tars by number, and names that tell them apart
open_files         bytes of large files by position, from forked and spawned workers alike
"""
