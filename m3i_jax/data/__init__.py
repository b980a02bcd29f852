"""Records, their crops and tokens, and the order in which they are read."""
