"""Tables, statistics and the report of the runs that a sweep recorded in MLflow, computed from plain data frames."""
