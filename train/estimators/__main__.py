"""Compares estimators of AIR's ELBO: ``python -m train.estimators``."""

from importlib import import_module

if __name__ == "__main__":
    # By name, as no estimator depends on the command: it stands above the methods.
    import_module("train.bench").run()
