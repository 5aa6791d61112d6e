"""Running trials on Ray: the schedule, the cluster, the workers, and the terminal's display."""
