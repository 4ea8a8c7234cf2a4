"""The exact loss of audio and texts over the global batch."""
