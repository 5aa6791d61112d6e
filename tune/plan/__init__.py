"""What a sweep runs: a grid's runs, their grouping into trials, what is done, and which settings conflict."""
