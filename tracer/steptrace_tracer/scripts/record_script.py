"""``steptrace record``: an unmodified training script with every ``fit`` in it traced."""

from __future__ import annotations

import dataclasses
import os
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import TraceError, TraceExistsError
from steptrace_schema.store.opening import refuse_existing
from steptrace_tracer.scripts.every_fit import every_fit
from steptrace_tracer.session.copies import numbered
from steptrace_tracer.session.perturbing import PERTURBER
from steptrace_tracer.session.workers import current_worker

if TYPE_CHECKING:
    from inspect import BoundArguments
    from pathlib import Path

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.scripts.script import Script
    from steptrace_tracer.session.perturbing import Perturber


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What running a script gave.

    Attributes
    ----------
    exit_status
        That of the script.
    traces
        The traces of its fits, in their order. A fit that trained no step has none.
    """

    exit_status: int
    traces: tuple[Path, ...]


def record_script(
    script: Script,
    path: Path,
    policy: Policy,
    *,
    overwrite: bool = False,
    perturb: bool = False,
) -> Recorded:
    """Run `script` in this process with every ``fit`` in it traced.

    The first ``fit`` is traced into `path`, the second one into a path of the same name with
    ``-2`` before its suffix, and so on. A ``fit`` that has a tracer already is left as it is.

    Parameters
    ----------
    script
        The program.
    path
        Where the trace of the first ``fit`` goes.
    policy
        What is recorded, for all of them.
    overwrite
        Replace existing traces.
    perturb
        Change what is trained on by rounding; see :func:`perturb_fit`. Steps that ``Tracer.wrap``
        wraps are changed as well, and what the script's own tracers record goes to `path` too.

    Returns
    -------
    Recorded
        Exit status and traces.

    Raises
    ------
    TraceExistsError
        Before the script runs, if there is something at one of the paths.
    TraceError
        If no ``fit`` ran though the script ended well, or there is no such script.

    Examples
    --------
    >>> record_script(Script("train.py"), Path("run.zarr"), Policy()).traces  # doctest: +SKIP
    (PosixPath('run.zarr'),)
    """
    script.check()
    if not overwrite:
        _refuse_earlier(path)
    paths: list[Path] = []

    def added(present: list[Any]) -> list[Any]:
        # TensorFlow is imported by the script, at the moment and in the environment it chooses.
        from steptrace_tracer.session.tracer import Tracer

        if any(isinstance(callback, Tracer) for callback in present):
            return []
        return [Tracer(next_path(), policy, overwrite=overwrite)]

    def next_path() -> Path:
        paths.append(path.with_name(numbered(path.name, len(paths) + 1)))
        return paths[-1]

    def perturbed(arguments: BoundArguments) -> list[Any]:
        from steptrace_tracer.scripts.perturb_fit import perturb_fit

        return perturb_fit(arguments)

    def perturber() -> Perturber:
        from steptrace_tracer.scripts.perturb_step import StepPerturber

        return StepPerturber(paths, next_path, overwrite=overwrite)

    with ExitStack() as stack:
        if perturb:
            stack.enter_context(PERTURBER.using(perturber))
        stack.enter_context(every_fit(added, change=perturbed if perturb else None))
        status = script.run()
    if not paths and status == 0:
        msg = (
            f"{script.name} called no fit of a Keras model that was not traced already, so nothing "
            "is recorded; wrap the step of a custom training loop with Tracer.wrap"
        )
        raise TraceError(msg)
    return Recorded(status, tuple(found for found in paths if found.exists()))


def _refuse_earlier(path: Path) -> None:
    """Refuse before the training what would be refused in the midst of it."""
    if current_worker(os.environ) is not None:
        return  # the path is a folder, which the other workers write into as well
    refuse_existing(path, overwrite=False)
    later = re.compile(rf"{re.escape(path.stem)}-\d+{re.escape(path.suffix)}")
    folder = path.absolute().parent
    for found in sorted(folder.iterdir()) if folder.is_dir() else []:
        if later.fullmatch(found.name):
            msg = (
                f"{found} exists, and a second fit would be traced into it; choose another path, "
                "or pass --overwrite"
            )
            raise TraceExistsError(msg)
