"""Conversations in files, which a chat continues and a training reads; votes on answers."""
