"""What is needed to run a failing step again: kept while training, written once, replayed."""
