"""From windows of a batch to augmented views, and pages that show them."""
