"""Floor 5: the command line. One file per command; each imports what it needs when it runs."""
