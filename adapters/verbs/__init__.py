"""What can be done to a registry, one file a kind of verb; `adapters.registry` is all of them."""
