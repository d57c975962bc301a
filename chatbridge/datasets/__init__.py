"""From files to batches: sources by index, a mixture that is arithmetic, a loader that workers cannot change."""
