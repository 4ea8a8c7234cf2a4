"""The exact semi-supervised contrastive loss of the global batch."""
