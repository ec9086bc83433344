"""What a remembered proof is recognised by: a training's own code, and nothing that varies."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from keras_models import mlp, vectors
from steptrace_tracer.capture import proof_memory
from steptrace_tracer.capture.code_digest import CodeDigest
from steptrace_tracer.capture.proof_memory import fingerprint
from steptrace_tracer.session.tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """
import functools
import numpy as np

SHARE = 0.5
TABLE = np.array([1.0, 2.0])

def helper(x):
    return x * 2

class Base:
    width = 3
    def method(self, x):
        return helper(x)

class Own(Base):
    def __init__(self, factor):
        self.factor = factor
        self._secret = object()

def make(scale):
    def inner(y, z, power=2):
        return helper(y) * scale * SHARE + TABLE[0] * z ** power
    return inner

step = make(4.0)
partly = functools.partial(helper, 3)
thing = Own(1)
bound = thing.method
"""


def _digest(text: str, name: str) -> str:
    module: dict[str, Any] = {"__name__": "users_own"}
    exec(text, module)  # as if it had been imported
    return json.dumps(CodeDigest().of(module[name]), default=repr)


@pytest.mark.parametrize("name", ["step", "partly", "thing", "bound"])
def test_the_same_code_says_the_same_in_another_start(name: str) -> None:
    assert _digest(MODULE, name) == _digest(MODULE, name)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("step", "x * 2", "x * 3"),  # of a function that it calls
        ("step", "SHARE = 0.5", "SHARE = 0.6"),
        ("step", "make(4.0)", "make(5.0)"),  # a closure
        ("step", "power=2", "power=3"),
        ("step", "[1.0, 2.0]", "[1.0, 2.5]"),
        ("partly", "helper, 3", "helper, 4"),
        ("thing", "Own(1)", "Own(2)"),
        ("thing", "width = 3", "width = 4"),
        ("bound", "return helper(x)", "return -helper(x)"),
        ("bound", "x * 2", "x - 2"),
    ],
)
def test_other_code_says_something_else(name: str, old: str, new: str) -> None:
    assert _digest(MODULE, name) != _digest(MODULE.replace(old, new), name)


def test_what_refers_to_itself_and_what_is_large_come_to_an_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    large = np.zeros(2**18)
    found = CodeDigest().of([ring, list(range(100_000)), [[]] * 100_000, large])
    assert len(json.dumps(found)) < 10**7


def _fingerprints(monkeypatch: pytest.MonkeyPatch, path: Path, **compiled: Any) -> str:
    found: list[str] = []

    def noting(*given: Any) -> str:
        found.append(fingerprint(*given))
        return found[-1]

    monkeypatch.setattr("steptrace_tracer.capture.proven_step.fingerprint", noting)
    keras.utils.clear_session()
    model = mlp()
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    x, y = vectors(8)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[Tracer(path, progress=False)])
    return found[0]


def _loss(factor: float) -> Any:
    def own_loss(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(factor * keras.ops.square(y_true - y_pred), axis=-1)

    return own_loss


def test_metrics_weights_and_own_losses_belong_to_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"metrics": ["mae"]},
        {"loss": _loss(1.0)},
        {"loss": _loss(2.0)},
    ]
    first, again = (
        [
            _fingerprints(monkeypatch, tmp_path / f"{start}{number}.zarr", **each)
            for number, each in enumerate(settings)
        ]
        for start in ("a", "b")
    )
    assert first == again
    assert len(set(first)) == len(settings)


def test_what_another_version_of_the_tracer_has_shown_is_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [tmp_path / "tracer" / "capture" / "proof_memory.py", tmp_path / "tracer" / "a.py"]
    modules[0].parent.mkdir(parents=True)
    for module in modules:
        module.touch()
    own_code = proof_memory._own_code.__wrapped__
    monkeypatch.setattr(proof_memory, "__file__", str(modules[0]))
    found = {}
    for number, text in enumerate(["", "", "taps = 2"]):
        modules[1].write_text(text)
        monkeypatch.setattr(proof_memory, "_own_code", own_code)
        found[number] = _fingerprints(monkeypatch, tmp_path / f"{number}.zarr")
    assert found[0] == found[1] != found[2]


def test_a_proof_is_known_in_another_process(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import keras, numpy as np\n"
        "from steptrace_tracer import Tracer\n"
        "from steptrace_tracer.capture import proven_step\n"
        "known = proven_step.fingerprint\n"
        "proven_step.fingerprint = lambda *given: print(found := known(*given)) or found\n"
        "class Own(keras.Model):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.dense, self.factor = keras.layers.Dense(2), 3.0\n"
        "    def call(self, x):\n"
        "        return self.dense(x) * self.factor\n"
        "model = Own()\n"
        "model.compile('adam', lambda y, p: keras.ops.mean((y - p) ** 2))\n"
        "x = np.ones((8, 3), 'f4')\n"
        "model.fit(x, x[:, :2], verbose=0, callbacks=[Tracer('run.zarr', overwrite=True,"
        " progress=False)])\n"
    )
    one, two = (
        subprocess.run(
            [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert len(one.split()[0]) == 64
    assert one == two
