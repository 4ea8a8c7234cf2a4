"""Datasets to WebDataset shards, their index, and deterministic global batches. Imports neither Ray nor MLflow."""
