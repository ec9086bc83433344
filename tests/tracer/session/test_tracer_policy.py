"""What a policy says about when, how exactly and how much is recorded."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_models import cnn, images, mlp, vectors, weights_of
from steptrace_schema.names import DEFAULT_KINDS
from steptrace_schema.statistics.describe import compute_statistics
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Policy, Tracer
from steptrace_tracer.capture import graph_statistics
from steptrace_tracer.capture.graph_statistics import tensor_statistics
from steptrace_tracer.record.precision import rounded
from steptrace_tracer.record.step_budget import beyond_budget
from steptrace_tracer.session import collect_step, incident_watch, last_weights
from steptrace_tracer.session.sampling import with_sample_count

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.format.policy import StatisticsKind
    from steptrace_schema.names import Kind
    from steptrace_tracer.capture.proven_step import Capture

BATCH = 8
STEPS = 6


def record(path: Path, model: Any = None, **fields: Any) -> zarr.Group:
    """Train two epochs of three steps."""
    model = mlp() if model is None else model
    x, y = images(24) if model.name == "cnn" else vectors(24)
    tracer = Tracer(path, on_error="raise", progress=False, **fields)
    model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[tracer])
    assert validate(path) == []
    return zarr.open_group(path, mode="r")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> zarr.Group:
    return record(tmp_path_factory.mktemp("full") / "run.zarr", cnn())


def values(group: zarr.Group, key: str) -> Any:
    return np.asarray(group[key])


def tensors(group: zarr.Group, kind: str) -> dict[str, npt.NDArray[Any]]:
    members = group[kind].members(max_depth=None)  # type: ignore[union-attr]
    return {
        key: np.asarray(array)
        for key, array in members
        if isinstance(array, zarr.Array) and key != "step"
    }


@pytest.mark.parametrize(
    ("side", "units", "kinds", "expected"),
    [
        (8, 1, DEFAULT_KINDS, 4),  # all is small
        (
            256,
            1,
            DEFAULT_KINDS,
            1,
        ),  # a sample takes 48 MiB: outputs, gradients, probe
        (256, 10, DEFAULT_KINDS, 3),  # weights and gradients take 160 MiB
        (256, 1, ("weights", "inputs"), 4),  # no outputs are recorded
    ],
)
def test_fewer_samples_are_kept_where_they_take_more_than_the_weights(
    side: int, units: int, kinds: tuple[Kind, ...], expected: int
) -> None:
    outputs = keras.layers.Conv2D(32, 1, activation="relu")
    model = keras.Sequential(
        [keras.Input((side, side, 1)), outputs, keras.layers.Flatten(), keras.layers.Dense(units)]
    )
    assert with_sample_count(Policy(kinds=kinds), (model,)).samples == expected
    assert with_sample_count(Policy(samples=2), (model,)).samples == 2


def test_the_trace_says_how_many_samples_it_keeps(tmp_path: Path) -> None:
    record(tmp_path / "run.zarr")
    assert read_attributes(tmp_path / "run.zarr").policy.samples == 4


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"windows": ((1, 3), (4, 5))}, [1, 2, 4]),
        ({"epochs": (1,)}, [3, 4, 5]),
        ({"every": 2, "windows": ((1, 6),)}, [2, 4]),
    ],
)
def test_only_the_chosen_steps_are_recorded_with_their_updates(
    tmp_path: Path, fields: dict[str, Any], expected: list[int]
) -> None:
    model = mlp()
    found = record(tmp_path / "run.zarr", model, **fields)
    every = record(tmp_path / "every.zarr")
    assert values(found, "scalars/step").tolist() == expected
    for key, updates in tensors(found, "updates").items():
        weights = values(every, f"weights/{key}")
        assert (updates == (weights[1:] - weights[:-1])[expected]).all()
        assert (values(found, f"weights/{key}")[:-1] == weights[expected]).all()
    plain = mlp()
    x, y = vectors(24)
    plain.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    for left, right in zip(weights_of(plain), weights_of(model), strict=True):
        assert left.tobytes() == right.tobytes()


def test_what_is_only_described_counts_in_a_budget_as_its_statistics() -> None:
    arrays = {f"{kind}/a": np.zeros(1000, np.float32) for kind in ("weights", "gradients")}
    kinds: tuple[StatisticsKind, ...] = ("weights", "gradients")
    assert beyond_budget(arrays, Policy(kinds=kinds, statistics_only=kinds, step_bytes=256)) == {}
    part = Policy(kinds=kinds, statistics_only=("weights",), step_bytes=4128)
    assert beyond_budget(arrays, part) == {}
    part = Policy(kinds=kinds, statistics_only=("weights",), step_bytes=4127)
    assert list(beyond_budget(arrays, part)) == ["gradients/a"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", ["inside", "beside"])
@pytest.mark.parametrize("in_graph", [False, True])
def test_statistics_alone_equal_those_of_the_tensors(
    tmp_path: Path,
    full: zarr.Group,
    way: Capture,
    in_graph: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = (graph_statistics, collect_step, incident_watch, last_weights)
    for module in modules:  # as with an accelerator, or without one
        monkeypatch.setattr(module, "describes_in_graph", lambda: in_graph)
    kinds = ("weights", "gradients", "activations", "activation_gradients")
    found = record(tmp_path / "run.zarr", cnn(), statistics_only=kinds, capture=way)
    attributes = read_attributes(tmp_path / "run.zarr")
    for kind in kinds:
        left, right = (group[f"statistics/{kind}/values"] for group in (found, full))
        assert left.attrs["tensors"] == [  # names of layers count up within a process
            m.path for m in attributes.missing if m.kind == kind and "statistics" in m.reason
        ]
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=1e-9, atol=1e-12)
        assert tensors(found, kind) == {}
        assert values(found, f"{kind}/step").tolist() == values(full, f"{kind}/step").tolist()
    left, right = (group["statistics/updates/values"] for group in (found, full))
    assert left.attrs["tensors"] == found["statistics/weights/values"].attrs["tensors"]
    np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=1e-9, atol=1e-12)
    # Without an accelerator the recorder has the weights, so that the step need not subtract them.
    assert ("updates" in attributes.declared) == in_graph


def test_updates_are_those_of_the_exact_weights_where_these_are_not_recorded(
    tmp_path: Path,
) -> None:
    every = record(tmp_path / "every.zarr")
    exact = {k: w[1:] - w[:-1] for k, w in tensors(every, "weights").items()}
    described = record(tmp_path / "described.zarr", statistics_only=("weights",))
    statistics = np.asarray(described["statistics/updates/values"])
    for column, key in enumerate(described["statistics/updates/values"].attrs["tensors"]):  # type: ignore[arg-type]
        expected = [compute_statistics(update) for update in exact[str(key)]]
        np.testing.assert_allclose(statistics[:, column], expected, rtol=1e-9, atol=1e-12)
    assert "updates" not in described
    rounded_weights = record(tmp_path / "rounded.zarr", precision={"weights": "bfloat16"})
    alone = record(tmp_path / "alone.zarr", kinds=("updates",))
    for key, update in exact.items():
        assert (values(alone, f"updates/{key}") == update).all()
        as_bfloat16 = tf.cast(tf.cast(tf.constant(update), tf.bfloat16), tf.float32)
        assert (values(rounded_weights, f"updates/{key}") == np.asarray(as_bfloat16)).all()
    assert "weights" not in alone


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
        elements=st.floats(width=32, min_value=-1e6, max_value=1e6, allow_subnormal=False)
        | st.sampled_from([np.nan, np.inf, -np.inf, 0.0]),
    )
)
def test_statistics_in_the_graph_are_those_of_the_schema(array: npt.NDArray[np.float32]) -> None:
    with np.errstate(invalid="ignore"):
        expected = compute_statistics(array)
    found = np.asarray(tensor_statistics(tf.constant(array)))
    if not np.isinf(array).any():
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)
    for index in (4, 6, 7, 8):  # the sum of absolute values, and counts
        np.testing.assert_allclose(found[index], expected[index], rtol=1e-9)


def test_percentiles_of_a_large_tensor_are_over_the_same_elements() -> None:
    array = np.random.default_rng(0).normal(size=40_000).astype(np.float32)
    found = np.asarray(tensor_statistics(tf.constant(array)))
    np.testing.assert_allclose(found, compute_statistics(array), rtol=1e-9, atol=1e-12)


def test_bfloat16_rounds_as_tensorflow_does(tmp_path: Path) -> None:
    found = record(tmp_path / "run.zarr", precision={"weights": "bfloat16", "gradients": 10})
    every = record(tmp_path / "every.zarr")
    for key, array in tensors(found, "weights").items():
        exact = tf.constant(values(every, f"weights/{key}"))
        assert (array == np.asarray(tf.cast(tf.cast(exact, tf.bfloat16), tf.float32))).all()
        assert found[f"weights/{key}"].attrs["keep_bits"] == 7
    for key, array in tensors(found, "gradients").items():
        exact = values(every, f"gradients/{key}")
        assert (array == exact.astype(np.float16)).all() or np.abs(array - exact).max() < 2**-11
    for key, array in tensors(found, "activations").items():
        assert array.tobytes() == values(every, f"activations/{key}").tobytes()


@given(
    hnp.arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.integers(1, 22),
)
def test_rounded_numbers_are_the_nearest_with_so_many_bits(
    array: npt.NDArray[np.float32], keep_bits: int
) -> None:
    found = rounded(array, keep_bits)
    finite = np.isfinite(array)
    np.testing.assert_array_equal(found[~finite], array[~finite])
    assert (found.view(np.uint32)[finite] & ((1 << (23 - keep_bits)) - 1) == 0).all()
    with np.errstate(over="ignore"):
        # Half of the last bit that is kept.
        half = np.ldexp(1.0, np.frexp(np.abs(array[finite]).astype(float))[1] - 2 - keep_bits)
    half = np.maximum(half, np.ldexp(1.0, -126 - 1 - keep_bits))
    inside = np.isfinite(found[finite])
    error = np.abs(found[finite].astype(float) - array[finite].astype(float))
    assert (error[inside] <= half[inside]).all()


def test_a_step_budget_leaves_out_whole_kinds_with_the_reason(tmp_path: Path) -> None:
    every = record(tmp_path / "every.zarr")
    sizes = {
        kind: sum(a[0].nbytes for a in tensors(every, kind).values())
        for kind in ("weights", "gradients", "activations", "activation_gradients", "inputs")
    } | {"probe": sum(a[0].nbytes for k, a in tensors(every, "probe").items() if "/" in k)}
    scalars = sum(a[0].nbytes for a in tensors(every, "scalars").values())
    budget = scalars + sum(sizes[k] for k in ("weights", "gradients", "inputs", "probe"))
    found = record(tmp_path / "run.zarr", kinds=tuple(sizes), step_bytes=budget)
    assert len(values(found, "probe/x")) == 4, "what is recorded once takes nothing from a step"
    left_out = {m.kind for m in read_attributes(tmp_path / "run.zarr").missing}
    assert left_out == {"activations", "activation_gradients"}
    assert len(values(found, "weights/step")) == STEPS + 1
    assert sum(a[0].nbytes for a in tensors(found, "gradients").values()) == sizes["gradients"]


def test_a_budget_that_is_used_up_ends_the_recording_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    model = mlp()
    found = record(path, model, kinds=("weights",), total_bytes=500)
    steps = len(values(found, "scalars/step"))
    assert 1 <= steps < STEPS
    attributes = read_attributes(path)
    assert attributes.status == "incomplete"
    assert f"500 B was used up at step {steps}" in str(attributes.status_reason)
    plain = mlp()
    x, y = vectors(24)
    plain.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    for left, right in zip(weights_of(plain), weights_of(model), strict=True):
        assert left.tobytes() == right.tobytes()


def test_a_policy_that_wants_no_step_of_the_training_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, kinds=("gradients",), windows=((100, 200),), progress=False)
    x, y = vectors(24)
    with pytest.warns(RuntimeWarning, match=r"no step .* was recorded.*windows=\(\(100, 200\),\)"):
        mlp().fit(x, y, batch_size=BATCH, verbose=0, callbacks=[tracer])
    assert not path.exists()


@pytest.mark.parametrize("way", ["no epochs", "no batches", "no calls"])
def test_a_training_without_a_step_is_told(tmp_path: Path, way: str) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False)
    model, (x, y) = mlp(), vectors(24)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if way == "no epochs":
            model.fit(x, y, epochs=0, verbose=0, callbacks=[tracer])
        elif way == "no batches":
            empty = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).take(0)
            model.fit(empty, shuffle=False, verbose=0, callbacks=[tracer])
        else:
            with tracer:
                tracer.wrap(model.train_on_batch)
    (said,) = [str(w.message) for w in told if "run.zarr" in str(w.message)]
    assert said.startswith(f"{path}: this training did no step")
    assert not path.exists()


def test_windows_and_precision_are_checked() -> None:
    for fields in ({"windows": ((3, 3),)}, {"precision": {"weights": 0}}, {"epochs": (-1,)}):
        with pytest.raises(ValueError, match=r"window|greater|epochs"):
            Policy(**fields)
    policy = Policy(windows=((0, 5),), precision={"weights": "bfloat16"}, epochs=(0, 2))
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
