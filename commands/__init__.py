"""The command line: one module per group of commands. A command parses, calls one entry point and prints the result."""
