"""Running somebody's script as it is, with every training in it observed."""
