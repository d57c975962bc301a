"""How answers with images of the tiny world are scored."""
