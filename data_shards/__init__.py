"""Datasets to WebDataset shards, their index, and deterministic global batches. Knows no Ray and no MLflow."""
