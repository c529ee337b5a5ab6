"""Network servers by composition."""
