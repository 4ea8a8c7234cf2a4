"""What a task is scored against: columns, splits, published splits."""
