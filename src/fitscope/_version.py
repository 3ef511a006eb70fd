"""The version, read by the build as well; change it here only."""

__version__ = "0.1.0.dev0"
