"""The storage: results, checkpoints, failures and locks, in a folder that all nodes share."""
