"""Layouts of annotation files: a file per family shows the fields of the public file and the record it becomes."""
