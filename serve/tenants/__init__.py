"""Who asks: API keys, what they see, and how much they may."""
