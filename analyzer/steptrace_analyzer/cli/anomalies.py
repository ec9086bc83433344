"""``steptrace anomalies``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from steptrace_analyzer.cli._options import Json, TracePath
from steptrace_analyzer.cli._output import Column, write_json, write_line, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.anomalies import Anomaly

_MOST_TENSORS = 5


def anomalies(
    trace: TracePath,
    threshold: Annotated[
        float,
        typer.Option(min=0, help="Robust z-score from which on an update is a jump."),
    ] = 8.0,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", metavar="KIND", help="Only jump, gradient or non_finite; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find sudden jumps and NaN, and what caused them.

    Each update and gradient is compared with the 50 before it, tensor by tensor. Exits with 1 where
    something is found.

    Examples
    --------
    steptrace anomalies run.zarr
    steptrace anomalies run.zarr --threshold 5 --kind jump
    """
    from steptrace_analyzer.anomalies import ANOMALY_KINDS, find_anomalies
    from steptrace_analyzer.trace.open import open_trace

    kinds: Any = kind or ANOMALY_KINDS
    found = find_anomalies(open_trace(trace), threshold=threshold, kinds=kinds)
    if as_json:
        listed = [anomaly.to_dict() for anomaly in found]
        write_json({"path": str(trace), "threshold": threshold, "anomalies": listed})
    elif not found:
        write_line(f"{trace}: nothing unusual found")
    else:
        _show(found)
    raise typer.Exit(1 if found else 0)


def _show(found: "Sequence[Anomaly]") -> None:
    for anomaly in found:
        write_line(anomaly.explain())
    write_line("")
    rows: list[tuple[object, ...]] = []
    for anomaly in found:
        if anomaly.kind == "non_finite":
            rows += [
                (t.step, anomaly.kind, f"{t.kind}/{t.path}", f"{t.nan} NaN, {t.inf} inf")
                + (None,) * 4
                for t in anomaly.tensors
            ]
            continue
        group = "updates" if anomaly.kind == "jump" else "gradients"
        for position, tensor in enumerate(anomaly.tensors[:_MOST_TENSORS]):
            units = ", ".join(str(unit.index) for unit in anomaly.units) if position == 0 else None
            rows.append(
                (
                    anomaly.step,
                    anomaly.kind,
                    f"{group}/{tensor.path}",
                    f"{tensor.norm:.3g} (usually {tensor.usual:.3g})",
                    f"{tensor.ratio:.1f}",
                    f"{tensor.z:.1f}",
                    units,
                    anomaly.cause,
                )
            )
    write_table(
        [
            Column("step", right=True),
            Column("kind"),
            Column("tensor"),
            Column("size", right=True),
            Column("ratio", right=True),
            Column("z", right=True),
            Column("units"),
            Column("cause"),
        ],
        rows,
    )
