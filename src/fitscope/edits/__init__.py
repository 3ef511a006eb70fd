"""Ready edits: what may become of a layer's output, or of its gradient, inside the step."""
