"""Texts of clips: captions written from tags, partial views of them, and swapped attributes."""
