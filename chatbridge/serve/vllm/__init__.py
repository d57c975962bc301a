"""Answers from a language model that runs elsewhere, in vLLM; media are read and encoded here."""
