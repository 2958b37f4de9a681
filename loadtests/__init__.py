"""Locust scenarios against a running server, benchmarks of the trainer, and what they measured."""
