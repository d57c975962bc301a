"""Tar shards behind https://, s3:// and pipe: addresses, downloaded when a sample of them is read.

addresses       what an address and a pattern of addresses mean, and which package reads them
permissions     whether remote files may be opened and shell commands run
open_stream     the bytes of a remote file from a given position: http(s), shell command, or fsspec
download        one remote file into a local one: resumed, retried, compared with its manifest
cache           a folder of bounded size with the downloaded shards, shared by all processes of a machine
cache_space     the bound on its size: reserved space, removal of shards that are not in use
locks           shared and exclusive locks between processes
shard_facts     the number of samples per shard, known before a shard is downloaded
source          the shards of one data source by number, downloaded ahead of their use
window_shuffle  the order of a source of shards: shuffled inside windows of a few shards
"""
