"""This machine: cores, memory, what a run may use of them, and places for temporary files."""
