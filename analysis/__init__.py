"""Reads what a sweep recorded in MLflow, and writes the tables and the report. Knows plain data frames alone."""
