"""Typed conversations, chat templates, and the layout that turns them into rows of ids."""
