"""Whether a model uses each of its modalities: its questions asked again without them, or with those of others."""
