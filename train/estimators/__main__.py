"""Compares estimators of AIR's ELBO: ``python -m train.estimators``."""

from train.cli import command
from train.studies.estimators import BenchSettings, main

if __name__ == "__main__":
    command(BenchSettings, main)
