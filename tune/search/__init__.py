"""Hyperparameter search for one cell: Optuna and ASHA, on validation scores."""
