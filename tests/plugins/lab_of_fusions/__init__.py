"""A plugin for tests, with a fusion of its own."""
