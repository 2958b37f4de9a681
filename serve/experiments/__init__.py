"""Comparisons on live traffic: which of several arms is better."""
