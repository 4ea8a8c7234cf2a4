"""Files that are whole or absent, locks of folders, outputs tried before work, lines of JSON."""
