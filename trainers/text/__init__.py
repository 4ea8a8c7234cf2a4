"""Text encoders: a hashed bag of words, MiniLM, any folder of weights, or your own; sentence vectors kept on disk."""
