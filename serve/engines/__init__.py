"""The port `Engine` and what stands behind it: vLLM, and a double for tests."""
