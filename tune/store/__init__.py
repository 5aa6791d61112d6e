"""The storage: results, checkpoints, failures and locks on a disk that every node shares."""
