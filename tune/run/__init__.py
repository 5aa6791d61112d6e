"""Trials on Ray: which may start, where they run, what a worker does, and what the terminal shows."""
