"""The HTTP server, for the gateway, the owner's socket, the engine and the doubles: connections, then exchanges."""
