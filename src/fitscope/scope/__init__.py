"""The Keras callback, its instructions, and what decides when a step is observed."""
