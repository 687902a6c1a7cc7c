"""Programs that make calls, one kind each, when ``processes.Caller`` tells them to."""
