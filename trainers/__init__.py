"""Everything that learns: augmentation, front-ends, encoders, losses, the loop."""
