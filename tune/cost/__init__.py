"""What training and inference cost: counted, measured on this machine, and remembered."""
