"""What training and inference cost: FLOPs counted, and time and memory measured on this machine and cached."""
