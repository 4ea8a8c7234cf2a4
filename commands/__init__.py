"""The command line, a module for each group of commands: it parses, calls one entry point, and prints what was made."""
