"""A plugin for tests: fusions of somebody else."""
