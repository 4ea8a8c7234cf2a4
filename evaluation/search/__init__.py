"""Nearest tracks of a catalogue."""
