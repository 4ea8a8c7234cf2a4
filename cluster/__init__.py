"""The floor: settings, storage, the Ray session, tracking, job submission. Knows no music."""
