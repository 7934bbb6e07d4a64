"""streams.conf and what it makes on the NATS server: read, compare, apply, keep so."""
