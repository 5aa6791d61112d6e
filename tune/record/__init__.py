"""Results in MLflow: what is written, under which names, and from a process of its own."""
