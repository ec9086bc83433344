"""The network of `keras_models.mlp`, computed again in NumPy from the weights of a trace.

Two dense layers, tanh between them: everything that a trace may hold follows from the weights of
the step, its batch, and the gradient of the loss with respect to the network's output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import zarr

    Array = npt.NDArray[Any]

MODEL = "mlp"


class TwoLayers:
    """What the network of one step of a trace computes, in float64."""

    def __init__(self, group: zarr.Group, step: int) -> None:
        self._group = group
        self._step = step
        names = ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")
        self.kernel, self.bias, self.out_kernel, self.out_bias = (
            self.row(f"weights/{MODEL}/{name}").astype(np.float64) for name in names
        )

    def row(self, key: str) -> Array:
        """Return what is recorded under `key` at this step."""
        row: Array = np.asarray(self._group[key])[self._step]
        return row

    def agrees(self, key: str, expected: Array | float) -> None:
        """Compare what is recorded with `expected`."""
        np.testing.assert_allclose(
            self.row(key), expected, rtol=2e-5, atol=1e-6, err_msg=f"{key} at row {self._step}"
        )

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the outputs of both layers."""
        hidden = np.tanh(x @ self.kernel + self.bias)
        return hidden, hidden @ self.out_kernel + self.out_bias

    def agree_outputs(self, x: Array) -> None:
        """Compare the inputs, and the outputs of both layers."""
        assert self.row("inputs/x").tobytes() == x.tobytes()
        for name, expected in zip(("hidden", "out"), self.forward(x), strict=True):
            self.agrees(f"activations/{MODEL}/{name}/output", expected)

    def agree_gradients(
        self, x: Array, slope: Callable[[Array], Array], *, frozen: bool = False
    ) -> None:
        """Compare all gradients of a loss, whose gradient with respect to the output is `slope`.

        With `frozen`, the first layer has none.
        """
        hidden, out = self.forward(x)
        toward_out = slope(out)
        toward_hidden = toward_out @ self.out_kernel.T
        toward_sum = toward_hidden * (1 - hidden**2)
        self.agrees(f"activation_gradients/{MODEL}/out/output", toward_out)
        self.agrees(f"activation_gradients/{MODEL}/hidden/output", toward_hidden)
        self.agrees("inputs/x_gradient", toward_sum @ self.kernel.T)
        self.agrees(f"gradients/{MODEL}/out/kernel", hidden.T @ toward_out)
        self.agrees(f"gradients/{MODEL}/out/bias", toward_out.sum(axis=0))
        if not frozen:
            self.agrees(f"gradients/{MODEL}/hidden/kernel", x.T @ toward_sum)
            self.agrees(f"gradients/{MODEL}/hidden/bias", toward_sum.sum(axis=0))

    def agree_probe(self) -> None:
        """Compare the probe, and the gradient of each sample's strongest hidden unit."""
        x = np.asarray(self._group["probe/x"])
        hidden, _ = self.forward(x)
        self.agrees(f"probe/{MODEL}/hidden/preactivation", x @ self.kernel + self.bias)
        self.agrees(f"probe/{MODEL}/hidden/output", hidden)
        unit = hidden.argmax(axis=1)
        strongest = np.take_along_axis(hidden, unit[:, np.newaxis], axis=1)
        saliency = (1 - strongest**2) * self.kernel[:, unit].T
        place = f"probe_gradients/{MODEL}/hidden"
        assert self.row(f"{place}/unit").tolist() == unit.tolist()
        self.agrees(f"{place}/saliency", saliency)
        self.agrees(f"{place}/norm", np.linalg.norm(saliency, axis=1))
