"""What is kept between requests, bounded in bytes: KV caches and encoded media."""
