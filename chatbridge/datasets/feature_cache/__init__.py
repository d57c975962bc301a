"""The feature cache: outputs of a frozen encoder, stored once and read by later runs in place of decoding and encoding.

    FOLDER/<modality>-<id>/set.json       what the features were made from (record.py); `id` is a hash of it
                           <name>.rows    a shard: rows of equal size, one per piece (frame, clip, image)
                           <name>.keys    which pieces its rows hold, with a checksum of each row (shards.py)
                           index          all committed shards together, memory-mapped (index.py)

**What an entry is found by.** The name of a set is a hash of everything that decides the features apart from the media:
format, modality, encoder (class, settings, hash of all its weights, compute dtype), preprocessing with its limits, and
how values are stored. Changed weights or preprocessing give another name, so old entries are not found rather than
wrong. Within a set, an entry is found by the hash of the media content and by its number among the pieces (piece 2 of
4). The versions of the libraries that decode and resize are recorded, and reported when they differ; they are not part
of the name, as they are not part of what a checkpoint records.

**When the content of a file is read.** Media in memory (members of tars, local or downloaded) are hashed at each use;
that costs less than copying their features. For a file the index has its path, size, modification and change time and
inode at build. If all are as they were, its hash is taken from the index and the file is not opened; otherwise the
file is hashed. As in git's index, a file that had changed within two seconds before it was hashed is never
trusted by its times. So a stale entry would need a file that was replaced without any change of its change time, which
no ordinary program can do: copies of a data set elsewhere, or restored times, only cost the hashing.

**What a kill leaves behind.** A shard is written as `.part`; its rows are synchronised to the disk and renamed, and the
shard exists once its `.keys` has been renamed too. Rows without keys are never read, and the next build deletes them.
The index is replaced as a whole. Processes and ranks write shards of their own, so they need no lock among each other;
one lock per folder keeps a second command out.

**What is checked.** Opening a set compares the size of each shard; each row that is read is compared with its checksum.
Damage stops the run and names the file; `chatbridge cache CFG --verify` reads everything and removes damaged shards.
"""

from chatbridge.datasets.feature_cache.config import FeatureCacheConfig

__all__ = ["FeatureCacheConfig"]
