"""The local page: a small server over run directories, and what it shows."""
