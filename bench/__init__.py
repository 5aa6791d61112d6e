"""What is measured for speed; each module is a command that prints a table."""
