"""Metrics of scores and heat maps, given labels."""
