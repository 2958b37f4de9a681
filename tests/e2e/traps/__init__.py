"""What breaks vLLM's own server, played against it and against ours."""
