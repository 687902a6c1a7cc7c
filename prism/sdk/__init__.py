"""Floor 3, plugin side: write a plugin as a class, serve it in-process or as a process."""
