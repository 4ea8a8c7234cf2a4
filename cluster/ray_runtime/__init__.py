"""Everything that touches Ray's sessions, tokens and jobs."""
