"""One call, one way: namespaces, policies, routing, deadlines, the relay of streams."""
