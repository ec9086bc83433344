"""Taps that change a training, as some do in networks too large for these tests."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from steptrace_tracer.capture.traced_step import TracedStep


@pytest.fixture
def late_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let taps inside the step change one bit of one bias from the third run on."""
    run, runs = TracedStep.run, itertools.count()

    def one_bit(self: TracedStep, args: Any, kwargs: Any, original: Any) -> Any:
        result = run(self, args, kwargs, original)
        if next(runs) >= 2:
            bias = self.program.models[0].layers[-1].bias
            bias.assign(np.nextafter(bias.numpy(), np.float32(9)))
        return result

    monkeypatch.setattr(TracedStep, "run", one_bit)
