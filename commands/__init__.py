"""The front door: a module of commands for each room; they parse, call one entry point, and say what was made."""
