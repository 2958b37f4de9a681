"""The analysis of experiments, over phases and what a store sums."""
