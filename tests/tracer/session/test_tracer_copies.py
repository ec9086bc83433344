"""Deep copies of a tracer, as a search over hyper-parameters makes of its callbacks."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path


class Named(Tracer):
    """A tracer of a user, which is begun in another way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "run.zarr", every=2, on_error="raise", progress=False)
        self.told = ["told"]


def test_each_trial_of_a_search_has_its_own_trace(tmp_path: Path) -> None:
    x, y = vectors()

    def trial(*callbacks: Any) -> Any:
        model = mlp()
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[*callbacks])
        return weights_of(model)

    given = Named(tmp_path)
    for number in (2, 3):
        own = copy.deepcopy(given)
        assert isinstance(own, Named)
        assert own.told == ["told"]
        for one, other in zip(trial(own), trial(), strict=True):
            np.testing.assert_array_equal(one, other)
        path = tmp_path / f"run-{number}.zarr"
        assert own.path == path
        assert validate(path) == []
        assert read_attributes(path).status == "complete"
        group: Any = zarr.open_group(path, mode="r")
        assert np.asarray(group["scalars/step"]).tolist() == [0, 2, 4]
    trial(given)
    assert given.path == tmp_path / "run.zarr"
    assert validate(given.path) == []


@pytest.mark.parametrize("address", ["runs/run.zarr", "s3://bucket/run.zarr"])
def test_a_copy_has_all_settings(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    tracer = Tracer(address, overwrite=True, watch=("non_finite",), on_finding=print, incidents=3)
    own = copy.deepcopy(copy.deepcopy(tracer))
    assert str(own.path) == address.replace("run.zarr", "run-2-2.zarr/worker-1.zarr")
    settings, expected = vars(own._settings), vars(tracer._settings)
    other = {"path", "recorded_steps", "live"}  # which are the copy's own
    assert {k: v for k, v in settings.items() if k not in other} == {
        k: v for k, v in expected.items() if k not in other
    }
    assert settings["live"].rules == ("non_finite",)
    assert settings["live"].on_finding is print
    assert own._overwrite
