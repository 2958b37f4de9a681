"""What a request's `model` leads to, and what the version it leads to fills in."""
