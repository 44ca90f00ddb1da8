"""Data sets that are drawn from code, whose factors are all known."""
