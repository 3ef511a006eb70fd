"""What watching costs, and what the ways around it cost; see README.md."""
