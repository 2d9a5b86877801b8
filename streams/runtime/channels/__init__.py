"""Ways out of the house: one channel, one file."""
