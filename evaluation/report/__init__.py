"""One JSON, and everything made from it."""
