"""Compares estimators of AIR's ELBO: ``python -m train.estimators``."""

from train.bench import BenchSettings, main
from train.cli import command

if __name__ == "__main__":
    command(BenchSettings, main)
