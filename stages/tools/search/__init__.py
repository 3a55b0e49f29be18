"""Searches hyperparameters: `python -m stages.tools.search`."""
