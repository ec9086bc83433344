"""Finding a tensor, a layer or a step of a trace by the name that a person uses."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import numpy as np

from steptrace_schema.errors import StepNotRecordedError, UnknownNameError
from steptrace_schema.names import ATTRIBUTES_KEY, STATISTICS, STEP, Kind

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    import xarray as xr

_MOST_NAMES = 20
_MOST_RUNS = 5


def tensor_paths(trace: xr.DataTree, kind: Kind) -> list[str]:
    """Return the paths of a kind's tensors, layers in the order of the model.

    Parameters
    ----------
    trace
        As :func:`steptrace_analyzer.open_trace` returns it.
    kind
        A kind of data.

    Returns
    -------
    list of str
        Paths below the kind's group, such as ``"sequential/dense/kernel"``; empty where the trace
        has nothing of this kind.

    Examples
    --------
    >>> tensor_paths(trace, "weights")  # doctest: +SKIP
    ['sequential/dense/kernel', 'sequential/dense/bias']
    """
    if kind not in trace.children:
        return []
    top = trace[kind]
    paths = [
        f"{node.path.removeprefix(top.path)}/{name}".lstrip("/")
        for node in top.subtree
        for name in _arrays(node)
    ]
    rank = {path: position for position, path in enumerate(_model_order(trace))}
    last = len(rank)
    return sorted(paths, key=lambda path: rank.get(path, rank.get(layer_of(path), last)))


def _arrays(node: xr.DataTree) -> list[Hashable]:
    """Return the names of a group's arrays; one that is called as a dimension is a coordinate."""
    found = node.to_dataset(inherit=False)
    return [name for name in found.variables if name not in found.indexes]


def layer_of(path: str) -> str:
    """Return the layer that a tensor belongs to; the tensor itself where it is in none.

    Examples
    --------
    >>> layer_of("sequential/dense/kernel"), layer_of("scale")
    ('sequential/dense', 'scale')
    """
    return path.rpartition("/")[0] or path


def layer_paths(trace: xr.DataTree, kind: Kind) -> list[str]:
    """Return the paths of the layers that have tensors of a kind, in the order of the model.

    Examples
    --------
    >>> layer_paths(trace, "activations")  # doctest: +SKIP
    ['sequential/conv2d', 'sequential/dense']
    """
    return list(dict.fromkeys(layer_of(path) for path in tensor_paths(trace, kind) if "/" in path))


def resolve_layer(trace: xr.DataTree, kind: Kind, name: str) -> str:
    """Return the path of the layer that `name` means.

    Parameters
    ----------
    trace
        An opened trace.
    kind
        The kind whose layers are searched.
    name
        A layer's path, or as many of its last segments as single it out: ``"dense"``.

    Returns
    -------
    str
        The layer's path below the kind's group.

    Raises
    ------
    UnknownNameError
        If no layer, or more than one, is meant; the message lists what there is.

    Examples
    --------
    >>> resolve_layer(trace, "weights", "dense")  # doctest: +SKIP
    'sequential/dense'
    """
    return _resolve(trace, kind, name, layer_paths(trace, kind), "layer")


def resolve_tensor(trace: xr.DataTree, kind: Kind, name: str) -> str:
    """Return the path of the tensor that `name` means; like :func:`resolve_layer`.

    Examples
    --------
    >>> resolve_tensor(trace, "weights", "dense/kernel")  # doctest: +SKIP
    'sequential/dense/kernel'
    """
    return _resolve(trace, kind, name, tensor_paths(trace, kind), "tensor")


def get_tensor(trace: xr.DataTree, kind: Kind, path: str) -> xr.DataArray:
    """Return one tensor of a trace, lazy, with its step coordinate.

    Parameters
    ----------
    trace
        An opened trace.
    kind
        A kind of data.
    path
        What :func:`resolve_tensor` accepts.

    Returns
    -------
    xarray.DataArray
        Dims (step, ...).

    Raises
    ------
    UnknownNameError
        If there is no such tensor.
    """
    found = _lookup(trace, kind, path)
    if found is None:  # only part of its path was given, or there is none
        found = _lookup(trace, kind, resolve_tensor(trace, kind, path))
    assert found is not None
    return found


def has_tensor(trace: xr.DataTree, kind: Kind, path: str) -> bool:
    """Whether a trace has a tensor of exactly this path.

    Examples
    --------
    >>> has_tensor(trace, "weights", "sequential/dense/kernel")  # doctest: +SKIP
    True
    """
    return _lookup(trace, kind, path) is not None


def _lookup(trace: xr.DataTree, kind: Kind, path: str) -> xr.DataArray | None:
    """Return the tensor of exactly this path; no list of all paths is made for it."""
    *groups, name = path.split("/")
    node = trace.children.get(kind)
    for group in groups:
        node = None if node is None else node.children.get(group)
    if node is None:
        return None
    dataset = node.dataset
    return dataset[name] if name in dataset.variables and name not in dataset.indexes else None


def recorded_steps(node: xr.DataArray | xr.DataTree) -> list[int]:
    """Return the steps that a tensor, or a kind's group, has; ascending as they were recorded."""
    return [int(step) for step in np.asarray(node.coords[STEP])] if STEP in node.coords else []


def resolve_step(node: xr.DataArray | xr.DataTree, step: int) -> int:
    """Return the step that `step` means, for ``node.sel(step=...)``.

    Parameters
    ----------
    node
        A tensor, or the group of a kind.
    step
        A step's number; a negative one counts from the end, -1 is the last recorded step.

    Raises
    ------
    StepNotRecordedError
        If it is not recorded; the message says which steps are.

    Examples
    --------
    >>> resolve_step(trace["weights"], -1)  # doctest: +SKIP
    100
    """
    steps = recorded_steps(node)
    if step < 0 and -step <= len(steps):
        return steps[step]
    if step in steps:
        return step
    name = (node.path if hasattr(node, "path") else str(node.name)).lstrip("/")
    recorded = f"recorded are {format_steps(steps)}" if steps else "it has no steps at all"
    msg = f"step {step} of '{name}' is not recorded; {recorded}"
    raise StepNotRecordedError(msg)


def format_steps(steps: Sequence[int]) -> str:
    """Write ascending steps compactly.

    Examples
    --------
    >>> format_steps([0, 1, 2, 3]), format_steps([0, 10, 20, 30]), format_steps([0, 1, 2, 7])
    ('0-3', '0, 10, ..., 30', '0-2, 7')
    """
    if len(steps) > 3:
        strides = set(np.diff(steps).tolist())
        if len(strides) == 1 and strides != {1}:
            return f"{steps[0]}, {steps[1]}, ..., {steps[-1]}"
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1][1:] = [step]
        else:
            runs.append([step])
    texts = ["-".join(str(step) for step in run) for run in runs]
    if len(texts) > _MOST_RUNS:
        texts = [*texts[: _MOST_RUNS - 1], "...", texts[-1]]
    return ", ".join(texts)


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of `known` that look like `name`, compared whole and by last segment."""
    by_text: dict[str, list[str]] = {}
    for path in known:
        for text in (path, path.rpartition("/")[2]):
            by_text.setdefault(text.lower(), []).append(path)
    matches = difflib.get_close_matches(name.lower(), by_text, n=3, cutoff=0.6)
    return list(dict.fromkeys(path for match in matches for path in by_text[match]))[:3]


def resolve_among(trace: xr.DataTree, name: str, known: Sequence[str], what: str) -> str:
    """Return which of `known` a name means, whole or by its last segments.

    Parameters
    ----------
    trace
        An opened trace, which the message names.
    name
        What the user wrote.
    known
        Paths.
    what
        What they are paths of: ``"layer"``, or with more, ``"layer with statistics"``.

    Raises
    ------
    UnknownNameError
        If it means none of them, or several; the message lists what there is.
    """
    if name in known:
        return name
    where = trace.name or "the trace"
    noun, _, rest = what.partition(" ")
    found = [path for path in known if path.endswith("/" + name.strip("/"))]
    if len(found) == 1:
        return found[0]
    if found:
        means = " ".join(filter(None, [f"several {noun}s", rest]))
        msg = f"'{name}' means {means} in {where}: {', '.join(found)}"
        raise UnknownNameError(msg)
    near = nearest_names(name, known)
    meant = f" (did you mean {' or '.join(repr(n) for n in near)}?)" if near else ""
    listed = [*known[:_MOST_NAMES], *["..."] * (len(known) > _MOST_NAMES)]
    called = " ".join(filter(None, [noun, f"'{name}'", rest]))
    msg = f"{where} has no {called}{meant}; it has {', '.join(listed) or 'none'}"
    raise UnknownNameError(msg)


def _resolve(trace: xr.DataTree, kind: Kind, name: str, known: list[str], noun: str) -> str:
    if not known:
        where = trace.name or "the trace"
        present = [k for k in trace.children if k != STATISTICS]
        msg = f"{where} has no {noun}s of kind '{kind}'; it has {', '.join(present) or 'no data'}"
        raise UnknownNameError(msg)
    return resolve_among(trace, name, known, f"{noun} of kind '{kind}'")


def _model_order(trace: xr.DataTree) -> list[str]:
    """Return the paths of layers and their variables, as the root attributes list them."""
    order: list[str] = []
    for layer in trace.root.attrs.get(ATTRIBUTES_KEY, {}).get("layers", ()):
        order += [layer["path"], *layer.get("variables", ())]
    return order
