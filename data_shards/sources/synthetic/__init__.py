"""Composed and rendered music whose key, tempo and tags are known."""
