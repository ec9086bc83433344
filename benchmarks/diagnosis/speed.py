"""How long it takes to judge a long run from its statistics alone.

    PYTHONPATH=benchmarks python -m diagnosis.speed

Makes a trace of 10,000 steps in memory: statistics of 100 weights, their gradients, updates,
activations and gradients of these, 500 tensors in all, without values. Prints the best of three.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import xarray as xr

from steptrace_analyzer import diagnose
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.policy import Policy
from steptrace_schema.names import ATTRIBUTES_KEY, STATISTIC_NAMES

STEPS, WEIGHTS, REPEATS = 10_000, 100, 3
KINDS = ("weights", "gradients", "updates", "activations", "activation_gradients")


def make_trace() -> xr.DataTree:
    """Return a quiet run: sizes that scatter by a quarter, a loss that falls."""
    rng = np.random.default_rng(0)
    steps = np.arange(STEPS)
    attributes = TraceAttributes(
        run_id="speed",
        created="2026-01-01T00:00:00+00:00",
        producer="benchmark",
        status="complete",
        policy=Policy(),
        loss="mse",
    )
    loss = 1 + np.exp(-steps / 1000) + 0.05 * rng.normal(size=STEPS)
    scalars = {
        "loss": loss,
        "learning_rate": np.full(STEPS, 1e-3),
        "batch_size": np.full(STEPS, 32),
    }
    groups = {
        "/": xr.Dataset(attrs={ATTRIBUTES_KEY: attributes.model_dump(mode="json")}),
        "scalars": xr.Dataset(
            {name: ("step", values) for name, values in scalars.items()}, coords={"step": steps}
        ),
    }
    for kind in KINDS:
        values = np.zeros((STEPS, WEIGHTS, len(STATISTIC_NAMES)))
        values[:, :, STATISTIC_NAMES.index("l2")] = np.exp(rng.normal(0, 0.25, (STEPS, WEIGHTS)))
        groups[f"statistics/{kind}"] = xr.Dataset(
            {"values": (("step", "tensor", "statistic"), values)},
            coords={
                "step": steps,
                "tensor": [f"net/layer_{n}/kernel" for n in range(WEIGHTS)],
                "statistic": list(STATISTIC_NAMES),
            },
        ).chunk({"step": 256})
    return xr.DataTree.from_dict(groups, name="speed.zarr")


def main() -> None:
    """Measure and print."""
    trace = make_trace()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        found = diagnose(trace)
        seconds.append(time.perf_counter() - start)
    judged = len(found.not_judged)
    sys.stdout.write(
        f"{STEPS} steps x {len(KINDS) * WEIGHTS} tensors: {min(seconds):.1f} s, "
        f"{len(found.findings)} findings, {judged} rules not judged\n"
    )


if __name__ == "__main__":
    main()
