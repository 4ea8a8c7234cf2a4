"""Settings, storage, the Ray session, tracking, job submission; independent of music."""
