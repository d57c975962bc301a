"""What a small run learned, on one page and in one JSON file."""
