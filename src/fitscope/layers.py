"""Keras layers of fitscope's own."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="fitscope")
class Tap(keras.layers.Layer):
    """An identity layer: what goes in comes out, the same tensor in the same precision.

    It gives a tensor that no layer returns, or one among several, a place and a name in a model,
    where it can be watched like any layer's output. `fs.clone_with_taps` puts it behind the layers
    that are chosen. It has no weights, passes masks and gradients on, and costs nothing: within a
    compiled step there is nothing to compute.

    Example:
        ```python
        x = fs.layers.Tap(name="features")(x)
        ```
    """

    def __init__(self, **kwargs: Any) -> None:
        # Under a mixed precision policy a layer casts what it is given; this one must not.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The inputs, whatever their structure."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the inputs."""
        return input_shape

    def compute_output_spec(self, inputs: Any) -> Any:
        """Symbolic tensors like the inputs."""
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype, sparse=x.sparse), inputs
        )
