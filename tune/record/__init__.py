"""Recording results in MLflow, from a separate process."""
