"""Locust scenarios against a running server, and what they measured."""
