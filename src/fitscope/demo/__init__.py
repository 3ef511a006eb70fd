"""A small network that trains on real data in seconds, with something in it to find."""
