"""Guides: what infers the latents."""
