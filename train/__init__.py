"""Training: the five front doors, and what they share."""
