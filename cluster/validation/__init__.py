"""How a configuration is read and refused: strict YAML, every problem at once, messages, renamed keys."""
