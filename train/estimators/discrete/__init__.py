"""Gradient estimators of discrete latents in any Pyro program: one for each site."""
