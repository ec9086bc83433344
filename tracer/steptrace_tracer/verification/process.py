"""One run of ``steptrace verify``: a script, seeded, with or without the tracer in its fits."""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.policy import Policy
from steptrace_tracer.scripts.every_fit import every_fit
from steptrace_tracer.scripts.script import Script

if TYPE_CHECKING:
    from steptrace_tracer.verification.state import State


def main(task: dict[str, Any]) -> int:
    """Run the script of `task`, and write the states of its training, one a line.

    Parameters
    ----------
    task
        ``script`` (its fields), ``policy``, ``seed``, ``states`` (the file to write), and
        ``traces``: a folder for the traces, None to run without the tracer.

    Returns
    -------
    int
        The exit status of the script.
    """
    fields = task["script"]
    script = Script(fields["name"], tuple(fields["arguments"]), fields["is_module"])
    seed, numbers = task["seed"], itertools.count()
    with Path(task["states"]).open("w", encoding="utf-8") as lines:

        def keep(state: State) -> None:
            lines.write(json.dumps([state.fit, state.step, state.digests]) + "\n")

        def added(present: list[Any]) -> list[Any]:
            from steptrace_tracer.session.tracer import Tracer
            from steptrace_tracer.verification.weight_digests import WeightDigests

            number = next(numbers)
            digests = WeightDigests(number, keep)
            if task["traces"] is None or any(isinstance(found, Tracer) for found in present):
                return [digests]
            path = Path(task["traces"]) / f"{number}.zarr"
            policy = Policy.model_validate(task["policy"])
            return [Tracer(path, policy, on_error="raise", progress=False), digests]

        random.seed(seed)
        np.random.seed(seed)
        with every_fit(added, lambda keras: keras.utils.set_random_seed(seed)):
            return script.run()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
