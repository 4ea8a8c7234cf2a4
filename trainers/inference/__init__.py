"""A pretrained encoder for others: frozen, exported, described."""
