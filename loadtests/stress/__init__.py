"""Everything at once against one real server, every answer checked; see `__main__`."""
