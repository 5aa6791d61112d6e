"""The sweep: grids of runs, trained by Ray Tune, recorded in MLflow."""
