"""Key-value and SQL on SQLite: the embedded default, no server needed."""
