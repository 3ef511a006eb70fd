"""Rules that read a `Fit` before its first step."""
