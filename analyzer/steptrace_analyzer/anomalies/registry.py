"""The rules that are run, their thresholds, and how others add theirs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.rules import BUILT_IN
from steptrace_schema.errors import TraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RuleFunction = Callable[..., Iterable[Finding]]
"""Takes :class:`~steptrace_analyzer.anomalies.signals.Signals`, and its thresholds as keyword-only
parameters with defaults; yields findings."""

ENTRY_POINTS: Final = "steptrace.rules"
"""Group of entry points through which other packages add rules."""

_registered: dict[str, RuleFunction] = {}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule by its name, with its thresholds."""

    name: str
    function: RuleFunction
    thresholds: Mapping[str, float]

    @property
    def documentation(self) -> str:
        """The rule's docstring."""
        return inspect.getdoc(self.function) or ""


def register(function: RuleFunction) -> RuleFunction:
    """Register a function as a rule, under its name. Use it as a decorator.

    Parameters
    ----------
    function
        Takes :class:`~steptrace_analyzer.anomalies.signals.Signals` and thresholds as keyword-only
        parameters with numbers as defaults; returns findings.

    Raises
    ------
    UnknownNameError
        If a built-in rule has the name.

    Examples
    --------
    >>> @register  # doctest: +SKIP
    ... def loud_loss(signals, *, most=100.0):
    ...     '''Find steps whose loss is above `most`.'''
    ...     for step, loss in zip(signals.loss.steps, signals.loss.values[:, 0]):
    ...         if loss > most:
    ...             yield Finding("loud_loss", "warning", int(step), int(step), f"loss {loss:.3g}")
    """
    name = _name(function)
    if name in BUILT_IN:
        msg = f"there already is a rule '{name}'; give yours another name"
        raise UnknownNameError(msg)
    _registered[name] = function
    return function


def rules(
    names: Sequence[str] | None = None, settings: Mapping[str, float] | None = None
) -> tuple[Rule, ...]:
    """Return rules with their thresholds.

    Parameters
    ----------
    names
        Which; all, where None.
    settings
        ``"rule.threshold"`` to the number to use.

    Raises
    ------
    UnknownNameError
        If there is no such rule or threshold.
    """
    known = {**BUILT_IN, **_registered, **_added()}
    for name in names or ():
        if name not in known:
            msg = f"there is no rule '{name}'; the rules are {', '.join(known)}"
            raise UnknownNameError(msg)
    changed: dict[str, dict[str, float]] = {}
    for key, value in (settings or {}).items():
        name, _, threshold = key.partition(".")
        if name not in known:
            msg = f"there is no rule '{name}' to set '{key}' of; the rules are {', '.join(known)}"
            raise UnknownNameError(msg)
        has = thresholds(known[name])
        if threshold not in has:
            msg = f"rule '{name}' has no threshold '{threshold}'; it has {', '.join(has) or 'none'}"
            raise UnknownNameError(msg)
        changed.setdefault(name, {})[threshold] = value
    return tuple(
        Rule(name, known[name], thresholds(known[name]) | changed.get(name, {}))
        for name in (known if names is None else dict.fromkeys(names))
    )


def thresholds(function: RuleFunction) -> dict[str, float]:
    """Return the thresholds of a rule: its keyword-only parameters and their defaults."""
    parameters: Mapping[str, Any] = inspect.signature(function).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _added() -> dict[str, RuleFunction]:
    added: dict[str, RuleFunction] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in BUILT_IN:
            continue
        try:
            added[entry.name] = entry.load()
        except (ImportError, AttributeError) as error:
            msg = f"rule '{entry.name}' cannot be loaded from {entry.value}: {error}"
            raise TraceError(msg) from error
    return added


def _name(function: RuleFunction) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
