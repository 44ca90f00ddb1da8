"""Losses other than the ELBO: pure functions of tensors, in nats."""
