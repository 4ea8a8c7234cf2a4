"""Audio files to samples, and the archives that hold them."""
