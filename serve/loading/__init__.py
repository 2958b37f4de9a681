"""How versions get into the engine, stay there, and leave it."""
