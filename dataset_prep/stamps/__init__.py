"""A small run on real weights, pictures and sounds that need no model hub (docs/real_parts.md)."""
