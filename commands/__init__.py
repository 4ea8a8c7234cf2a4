"""The command line: a module of commands for each package; each parses, calls one entry point, prints the result."""
