"""What operators see: access log, program log, metrics, trace context."""
