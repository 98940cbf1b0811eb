"""Storage servers as a client sees them: the HTTP transport, one server, all servers, who gets what."""
