"""What a run keeps: snapshots, optimiser, averages, the metrics log."""
