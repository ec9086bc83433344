"""What earlier starts of a training have shown, so that the next one need not show it again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from steptrace_schema.storage.names import open_to_read
from steptrace_schema.version import PACKAGE_VERSION
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.code_digest import CodeDigest
from steptrace_tracer.capture.names import walk_operations
from steptrace_tracer.keras_private import compiled_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_tracer.capture.traced_step import TracedStep

Remembered = Literal["inside", "apart", "beside"]
"""What was shown to be right: taps inside the step, with its weights read there or apart, or a step
beside the training's."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LONGEST_WAY = 100
_COMPARED = "variables and results"
"""What a proof compares; what proofs that compared less have shown is forgotten."""
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

    def recall(self, fingerprint: str) -> Remembered | None:
        """Return the way that was shown to be right, None where nothing is known."""
        try:
            with os.fdopen(open_to_read(self._folder / fingerprint), "rb") as file:
                text = file.read(_LONGEST_WAY).decode("ascii").strip()
        except (OSError, ValueError):  # what is no file of a word says nothing
            return None
        return next((way for way in get_args(Remembered) if way == text), None)

    def keep(self, fingerprint: str, way: Remembered) -> None:
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

    That is the code and the settings of the step, its models, losses, metrics and optimizers, of
    what of the user's own they refer to, what is recorded of them, the types of the batch, the
    versions, and the processor.
    """
    digest = hashlib.sha256()
    for part in _parts(step, args, kwargs):
        text = json.dumps(part, default=repr, sort_keys=True)
        digest.update(_ADDRESS.sub("", text).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _parts(step: TracedStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    program = step.program
    yield [_COMPARED, PACKAGE_VERSION, tf.__version__, keras.__version__, platform.python_version()]
    yield [platform.machine(), _processor(), os.cpu_count(), _own_code()]
    yield [str(device) for device in tf.config.list_physical_devices()]
    yield {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
    yield step.policy.model_dump(mode="json")
    yield [
        [str(leaf.dtype), list(leaf.shape)[1:]] if hasattr(leaf, "shape") else repr(type(leaf))
        for leaf in tf.nest.flatten((args, kwargs), expand_composites=True)
    ]
    code = CodeDigest()
    yield code.of(program.body)
    yield [code.of(optimizer) for optimizer in program.optimizers]
    for model in program.models:
        yield code.of(compiled_with(model))
        yield code.of(model)
        for layer, path in walk_operations(model):
            yield [path, code.of(layer)]
            yield [
                [list(v.shape), str(v.dtype), v.trainable] for v in getattr(layer, "weights", ())
            ]


@functools.cache
def _own_code() -> str:
    """Return a digest of the tracer's code, which decides which taps there are."""
    modules = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def _processor() -> str:
    """Return the name of the processor's model, which decides the instructions that are used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags"))}))
