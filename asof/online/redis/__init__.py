"""The Redis store: keys, transport, scripts, connections, and the redis-server that a repo can run for itself."""
