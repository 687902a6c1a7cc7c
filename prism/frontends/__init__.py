"""Floor 5: the doors. HTTP servers and the ASGI applications they serve."""
