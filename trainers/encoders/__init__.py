"""Networks from views to embeddings."""
