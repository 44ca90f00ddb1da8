"""Draws the figures of a finished run again: ``python -m train.figures RUN``."""

from train.cli import command
from train.redraw import RedrawSettings, main

if __name__ == "__main__":
    command(RedrawSettings, main)
