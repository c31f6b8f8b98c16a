"""A prior behind a URL: server and client."""
