"""Generative models: what makes the data."""
