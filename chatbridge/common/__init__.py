"""What every layer may use; imports nothing else of the package.

data        types: samples, batches, segments and losses; seeds: named random streams
processes   dist: ranks; rendezvous: how ranks meet; lost_ranks: errors of a rank whose peer has ended; threads: threads
            per process; process_pool: tasks that may hang or crash; forked: what a forked child renews
files       safe_files: atomic replacement, locks, appended lines; one_process: one writer of an output; file_kind:
            what a file is by its first bytes; gguf_kind, gguf_header: GGUF files;
            file_names: hidden files; text_repair: invalid characters
the user    errors: problems and the entry point; extras: optional packages; log: stderr and run.log;
            environment: values from the environment, hidden; text_table: tables in the terminal;
            bitsandbytes_support: whether 8 and 4 bits work here; revision: which code runs; source_digest: a hash of
            code; quiet_transformers: no warnings about what is handled
"""
