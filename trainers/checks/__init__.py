"""What can be refused or predicted before a run starts."""
