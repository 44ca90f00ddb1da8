"""Images that stay on disk or in a PyTorch data set, and are read batch by batch."""
