"""What is to be run: a grid's runs, the trials that they form, what of it is done, and what is in the way."""
