"""How a value leaves the compiled step: the only package that imports Keras' backends."""
