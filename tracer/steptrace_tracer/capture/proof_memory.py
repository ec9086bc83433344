"""What earlier starts of a training have shown, so that the next one need not show it again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from steptrace_schema.format.attributes import Way
from steptrace_schema.storage.names import open_to_read
from steptrace_schema.version import PACKAGE_VERSION
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.names import walk_operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_tracer.capture.traced_step import TracedStep

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LONGEST_WAY = 100
_OF_THE_LIBRARIES = ("keras", "tensorflow")
_OF_COMPILE = ("jit_compile", "loss", "steps_per_execution", "unrolled_steps_per_execution")
_VARIABLES = ("TF_", "XLA_", "ONEDNN_", "DNNL_", "OMP_", "CUDA_")
"""Beginnings of environment variables that decide how TensorFlow computes."""


class ProofMemory:
    """Remembers in a folder which way of capturing a training leaves it as it is.

    Parameters
    ----------
    folder
        Where; ``$XDG_CACHE_HOME/steptrace/proofs`` by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = folder or cache / "steptrace" / "proofs"

    def recall(self, fingerprint: str) -> Way | None:
        """Return the way that was shown to be right, None where nothing is known."""
        try:
            with os.fdopen(open_to_read(self._folder / fingerprint), "rb") as file:
                text = file.read(_LONGEST_WAY).decode("ascii").strip()
        except (OSError, ValueError):  # what is no file of a word says nothing
            return None
        return next((way for way in get_args(Way) if way == text), None)

    def keep(self, fingerprint: str, way: Way) -> None:
        """Remember what was shown; where the folder cannot be written, it is shown again."""
        path = self._folder / fingerprint
        temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(way, encoding="utf-8")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)


def fingerprint(step: TracedStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a digest of all that decides how a step is compiled and computed.

    That is the code and the settings of the step, its models, losses and optimizers, what is
    recorded of them, the types of the batch, the versions, and the processor.
    """
    digest = hashlib.sha256()
    for part in _parts(step, args, kwargs):
        text = json.dumps(part, default=repr, sort_keys=True)
        digest.update(_ADDRESS.sub("", text).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _parts(step: TracedStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    program = step.program
    yield [PACKAGE_VERSION, tf.__version__, keras.__version__, platform.python_version()]
    yield [platform.machine(), _processor(), os.cpu_count()]
    yield [str(device) for device in tf.config.list_physical_devices()]
    yield {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
    yield step.policy.model_dump(mode="json")
    yield [
        [str(leaf.dtype), list(leaf.shape)[1:]] if hasattr(leaf, "shape") else repr(type(leaf))
        for leaf in tf.nest.flatten((args, kwargs), expand_composites=True)
    ]
    yield _code(program.body)
    for optimizer in program.optimizers:
        yield [type(optimizer).__qualname__, _config(optimizer), *_own_code(type(optimizer))]
    for model in program.models:
        yield [repr(getattr(model, name, None)) for name in _OF_COMPILE]
        for layer, path in walk_operations(model):
            yield [path, type(layer).__qualname__, _config(layer), *_own_code(type(layer))]
            yield [
                [list(v.shape), str(v.dtype), v.trainable] for v in getattr(layer, "weights", ())
            ]


def _config(thing: Any) -> Any:
    try:
        return thing.get_config()
    except Exception as error:  # a class of the user's need not have one; its code stands for it
        return type(error).__name__


def _own_code(kind: type) -> list[Any]:
    """Return the code of what the user's own classes define."""
    return [
        _code(member)
        for base in kind.__mro__
        if base is not object and base.__module__.partition(".")[0] not in _OF_THE_LIBRARIES
        for _, member in sorted(vars(base).items())
        if isinstance(member, types.FunctionType)
    ]


def _code(function: Any) -> Any:
    """Return what a Python function does, as far as its own code says it."""
    function = getattr(function, "func", function)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    return repr(type(function)) if code is None else _of_code(code)


def _of_code(code: types.CodeType) -> Any:
    constants = [
        _of_code(value) if isinstance(value, types.CodeType) else repr(value)
        for value in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), constants]


def _processor() -> str:
    """Return the name of the processor's model, which decides the instructions that are used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags"))}))
