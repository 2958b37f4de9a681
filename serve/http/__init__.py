"""HTTP itself: bytes in, bytes out, and what is refused by it. Knows no adapters."""
