"""Pairs of runs that part at a known place: the step, phase, tensor and unit are named."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer.differences import first_divergence
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from steptrace_analyzer.differences.divergence_result import Divergence
    from steptrace_schema.format.attributes import TraceAttributes

    Arrays = dict[str, Any]
    Mutation = Callable[[int, Arrays], None]
    Write = Callable[..., Path]

KERNEL = "weights/sequential/dense/kernel"
HIDDEN = "activations/sequential/dense/output"
LOGITS = "activations/sequential/dense_1/output"
DIGESTS = "inputs/sample_digest"
STEPS = 24


@pytest.fixture
def write(make_run: Any, tmp_path: Path) -> Write:
    """Return a function that writes a run of 24 steps, changed in the given ways."""
    numbers = iter(range(100))

    def build(
        mutate: Mutation | None = None,
        describe: Callable[[TraceAttributes], TraceAttributes] | None = None,
        **fields: Any,
    ) -> Path:
        @dataclasses.dataclass(frozen=True)
        class Changed(make_run):  # type: ignore[misc]
            def records(self) -> Iterator[tuple[int, Arrays]]:
                for step, arrays in super().records():
                    copied = {key: np.array(value) for key, value in arrays.items()}
                    if mutate is not None:
                        mutate(step, copied)
                    yield step, copied

            def attributes(self) -> TraceAttributes:
                found: TraceAttributes = super().attributes()
                first, second = found.layers
                layers = (
                    first.model_copy(update={"inputs": (), "data": ("x",)}),
                    second.model_copy(update={"inputs": ("sequential/dense",), "data": ()}),
                )
                found = found.model_copy(update={"layers": layers})
                return found if describe is None else describe(found)

        run = Changed(**{"steps": STEPS, **fields})
        path: Path = run.write(tmp_path / f"run{next(numbers)}.zarr")
        return path

    return build


def place(found: Divergence) -> tuple[int | None, str, str]:
    assert found.place is not None
    return found.place.step, found.place.phase, found.place.name


def test_equal_runs_are_equal_at_every_step(write: Write) -> None:
    found = first_divergence(write(), write())
    assert (found.verdict, found.place, found.origin) == ("equal", None, None)
    assert found.coverage.share == 1
    assert found.coverage.by_statistics == 0
    assert found.steps == f"0-{STEPS}"


def test_one_flipped_bit_of_a_weight_is_named_with_its_unit(write: Write) -> None:
    def flip(step: int, arrays: Arrays) -> None:
        if step >= 9:
            arrays[KERNEL].view("u4")[2, 3] ^= 1

    found = first_divergence(write(), write(flip))
    assert place(found) == (9, "weights", KERNEL)
    assert found.place is not None
    assert (found.place.unit, found.place.units, found.place.index) == (3, 1, (2, 3))
    distance = found.differing[0].distance
    assert distance is not None
    assert (distance.differing, distance.elements, distance.max_ulp) == (1, 30, 1)
    assert found.verdict == "differs"  # weights are not computed again
    assert "something between the steps" in str(found.origin)


def test_a_scaled_kernel_is_found_at_the_step_it_begins(write: Write) -> None:
    def scale(step: int, arrays: Arrays) -> None:
        if step >= 5:
            arrays["weights/sequential/dense_1/kernel"] *= np.float32(1.5)

    found = first_divergence(write(), write(scale))
    assert place(found) == (5, "weights", "weights/sequential/dense_1/kernel")


def test_another_rate_is_found_at_its_step_before_the_weights_it_makes(write: Write) -> None:
    found = first_divergence(write(), write(learning_rates={7: 0.1}))
    assert place(found) == (7, "update", "scalars/learning_rate")
    assert "other hyper-parameters" in str(found.origin)
    assert len(found.differing) == 1


def test_an_update_that_nothing_recorded_explains_is_found_in_the_next_weights(
    write: Write,
) -> None:
    found = first_divergence(write(), write(hidden_rate={11: 1.5}))
    assert place(found) == (12, "weights", KERNEL)


def test_one_pixel_of_one_sample_is_named(write: Write) -> None:
    def change(step: int, arrays: Arrays) -> None:
        if step == 6:
            arrays["inputs/x"][2, 4] += 1
            arrays[DIGESTS][2] = 12345

    found = first_divergence(write(), write(change))
    assert place(found) == (6, "batch", "inputs/x")
    assert found.place is not None
    assert (found.place.sample, found.place.unit, found.place.units) == (2, 4, 1)
    assert found.recognised == ("other samples: 1 of the 16 samples of step 6 differ",)


def test_a_sample_that_is_not_recorded_is_found_by_its_digest(write: Write) -> None:
    def change(step: int, arrays: Arrays) -> None:
        if step == 6:
            arrays[DIGESTS][13] = 12345

    found = first_divergence(write(), write(change))
    assert place(found) == (6, "batch", DIGESTS)
    assert found.place is not None
    assert found.place.sample == 13
    assert found.differing[0].distance is not None
    assert found.differing[0].distance.max_abs is None


def exchanged(write: Write, one: int, other: int) -> Path:
    """Write a run in which two batches have changed places."""
    inputs: dict[int, Arrays] = {}
    write(lambda step, arrays: inputs.__setitem__(step, dict(arrays)))

    def exchange(step: int, arrays: Arrays) -> None:
        if step in (one, other):
            source = inputs[other if step == one else one]
            arrays.update({k: v for k, v in source.items() if k.startswith("inputs/")})

    return write(exchange)


def test_two_exchanged_batches_are_recognised(write: Write) -> None:
    found = first_divergence(write(), exchanged(write, 4, 8))
    assert place(found) == (4, "batch", "inputs/x")
    assert found.recognised == (
        "other order: the batch of step 4 of the first run is that of step 8 of the second",
    )


def test_the_same_samples_in_another_order_are_recognised(write: Write) -> None:
    def reverse(step: int, arrays: Arrays) -> None:
        if step == 3:
            arrays[DIGESTS] = arrays[DIGESTS][::-1].copy()

    found = first_divergence(write(), write(reverse))
    assert found.recognised == (
        "other order: the batch of step 3 has the same samples in another order",
    )


def test_other_data_and_other_initial_weights_are_recognised(write: Write) -> None:
    found = first_divergence(write(), write(seed=1))
    assert place(found) == (0, "batch", "inputs/x")
    assert found.recognised == (
        "other data: none of the 16 samples of step 0 is in the second run's batch",
        "other initial weights",
    )


def test_the_origin_is_the_layer_whose_inputs_are_equal(write: Write) -> None:
    def wrong(step: int, arrays: Arrays) -> None:
        if step == 10:
            arrays[LOGITS][1, 2] *= np.float32(1.25)
            arrays["scalars/loss"] += np.float32(0.5)

    found = first_divergence(write(), write(wrong))
    assert place(found) == (10, "forward", LOGITS)
    assert found.place is not None
    assert (found.place.sample, found.place.unit) == (1, 2)
    assert (
        "Dense 'dense_1': the output of dense, kernel and bias are equal; 1 of 12 elements differ"
        in str(found.origin)
    )
    assert [each.place.name for each in found.differing] == [LOGITS, "scalars/loss"]
    assert found.verdict == "differs"


def test_what_rounding_may_have_made_is_said_to_be_of_that_size(write: Write) -> None:
    def round_off(step: int, arrays: Arrays) -> None:
        if 10 <= step < STEPS:
            arrays[HIDDEN] = np.nextafter(arrays[HIDDEN], np.float32(9))

    found = first_divergence(write(), write(round_off))
    assert place(found) == (10, "forward", HIDDEN)
    assert found.verdict == "rounding-sized"
    distance = found.differing[0].distance
    assert distance is not None
    assert distance.max_ulp == 1
    assert "the input x, kernel and bias are equal" in str(found.origin)


@pytest.mark.parametrize("allowed", [{"ulp": 1}, {"atol": 1e-6}, {"rtol": 1e-6, "atol": 1e-30}])
def test_within_a_tolerance_nothing_differs(write: Write, allowed: dict[str, Any]) -> None:
    def round_off(step: int, arrays: Arrays) -> None:
        if 10 <= step < STEPS:
            arrays[LOGITS] = np.nextafter(arrays[LOGITS], np.float32(9))
        if step == 15:
            arrays[LOGITS][0, 0] += 1

    found = first_divergence(write(), write(round_off), **allowed)
    assert place(found) == (15, "forward", LOGITS)


def test_one_nan_in_an_activation_is_named(write: Write) -> None:
    def poison(step: int, arrays: Arrays) -> None:
        if step == 8:
            arrays[HIDDEN][3, 1] = np.nan

    found = first_divergence(write(), write(poison))
    assert place(found) == (8, "forward", HIDDEN)
    assert found.place is not None
    assert (found.place.sample, found.place.unit) == (3, 1)
    distance = found.differing[0].distance
    assert distance is not None
    assert (distance.non_finite_a, distance.non_finite_b, distance.differing) == (0, 1, 1)
    assert found.verdict == "differs"


def test_a_changed_gradient_is_found_in_the_backward_order(write: Write) -> None:
    def change(step: int, arrays: Arrays) -> None:
        if step == 2:
            arrays["gradients/sequential/dense/bias"] += np.float32(1)
            arrays["gradients/sequential/dense_1/bias"] += np.float32(1)

    found = first_divergence(write(), write(change))
    assert place(found) == (2, "gradients", "gradients/sequential/dense_1/bias")


def test_a_renamed_layer_is_matched_by_order_and_shape(write: Write) -> None:
    def rename(_step: int, arrays: Arrays) -> None:
        for key in [key for key in arrays if "/dense_1/" in key]:
            arrays[key.replace("/dense_1/", "/head/")] = arrays.pop(key)

    def described(found: TraceAttributes) -> TraceAttributes:
        first, second = found.layers
        variables = tuple(path.replace("dense_1", "head") for path in second.variables)
        other = {"path": "sequential/head", "name": "head", "variables": variables}
        return found.model_copy(update={"layers": (first, second.model_copy(update=other))})

    found = first_divergence(write(), write(rename, described))
    assert found.verdict == "equal"
    assert [(m.a, m.b, m.how) for m in found.renamed] == [
        ("sequential/dense_1", "sequential/head", "order and shape")
    ]
    assert found.recognised == (
        "renamed layers, matched in order: sequential/dense_1 is sequential/head",
    )
    assert found.not_compared == ()
    with pytest.raises(UnknownNameError, match="the second model has no layer 'sequential/heat'"):
        first_divergence(
            write(), write(rename, described), renamed={"sequential/dense_1": "sequential/heat"}
        )


def test_an_extra_layer_is_listed_and_the_rest_compared(write: Write) -> None:
    def add(_step: int, arrays: Arrays) -> None:
        arrays["activations/sequential/extra/output"] = np.ones((4, 2), "f4")

    def described(found: TraceAttributes) -> TraceAttributes:
        first, second = found.layers
        extra = first.model_copy(
            update={"path": "sequential/extra", "name": "extra", "variables": (), "parameters": 0}
        )
        return found.model_copy(update={"layers": (first, extra, second)})

    found = first_divergence(write(), write(add, described))
    assert found.verdict == "inconclusive"
    assert found.recognised == ("other model: only the second run has sequential/extra",)
    assert found.not_compared == ("activations: only the second run has sequential/extra/output",)


def test_configurations_versions_and_hardware_are_recognised(write: Write) -> None:
    def described(found: TraceAttributes) -> TraceAttributes:
        optimizer = found.optimizer.model_copy(update={"config": {"momentum": 0.9}})  # type: ignore[union-attr]
        environment = {**found.environment, "numpy": "9.9", "cpu_count": 3}
        return found.model_copy(update={"optimizer": optimizer, "environment": environment})

    found = first_divergence(write(), write(None, described))
    assert found.verdict == "equal"
    assert found.recognised == (
        "other hyper-parameters of the optimizer: momentum absent and 0.9",
        f"other versions or script: numpy {np.__version__} and 9.9",
        "other hardware or system: cpu_count absent and 3",
    )


def test_steps_that_only_one_run_has_are_listed(write: Write) -> None:
    found = first_divergence(write(), write(steps=20))
    assert found.verdict == "equal"
    assert found.steps == "0-20"
    assert found.not_compared == ("steps 21-24: only in the first run",)


def test_runs_are_compared_with_a_shift(write: Write) -> None:
    base = write()
    recorded: dict[int, Arrays] = {}
    write(lambda step, arrays: recorded.__setitem__(step, dict(arrays)))

    def later(step: int, arrays: Arrays) -> None:
        source = recorded[min(step + 4, STEPS - 1)]
        for key in arrays:
            if not key.startswith("scalars/") and key in source:
                arrays[key] = source[key]

    found = first_divergence(write(later, steps=10), base, shift=4, kinds=("activations", "inputs"))
    assert found.verdict == "equal"
    assert found.coverage.by_digest > 0


def test_nothing_in_common_is_inconclusive(write: Write) -> None:
    found = first_divergence(write(), write(), shift=1000)
    assert (found.verdict, found.place) == ("inconclusive", None)


def test_traces_without_digests_are_compared_by_statistics_and_then_values(write: Write) -> None:
    import json
    import shutil

    def tiny(step: int, arrays: Arrays) -> None:
        if step >= 9:
            arrays[KERNEL].view("u4")[2, 3] ^= 1
            arrays[KERNEL][0, 0] = np.float32(1e-30)

    def base(step: int, arrays: Arrays) -> None:
        if step >= 9:
            arrays[KERNEL].view("u4")[2, 3] ^= 1
            arrays[KERNEL][0, 0] = np.float32(2e-30)  # no statistic sees it

    paths = [write(base), write(tiny), write(tiny)]
    for path in paths:
        for folder in (path / "statistics").glob("*/digests"):
            shutil.rmtree(folder)
        root = json.loads((path / "zarr.json").read_text())
        root.pop("consolidated_metadata", None)
        root["attributes"]["steptrace"]["version"] = "1.1"
        (path / "zarr.json").write_text(json.dumps(root))
    found = first_divergence(paths[0], paths[1])
    assert place(found) == (9, "weights", KERNEL)
    assert found.place is not None
    assert found.place.index == (0, 0)
    equal = first_divergence(paths[1], paths[2])
    assert equal.verdict == "equal"
    assert equal.coverage.by_statistics == 0


def test_a_damaged_chunk_is_named_and_makes_the_verdict_inconclusive(write: Write) -> None:
    path = write()
    (chunk,) = (path / "statistics" / "weights" / "digests").glob("c*")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    found = first_divergence(write(), path)
    assert found.verdict == "inconclusive"
    assert any("statistics/weights/digests" in text for text in found.not_compared)


def test_what_is_not_kept_is_still_told_apart_by_its_digest(write: Write) -> None:
    from steptrace_schema.format.retention import last

    def flip(step: int, arrays: Arrays) -> None:
        if step == 9:
            arrays[HIDDEN].view("u4")[0, 0] ^= 1

    found = first_divergence(write(retain=last(3)), write(flip, retain=last(3)))
    assert place(found) == (9, "forward", HIDDEN)
    assert found.differing[0].distance is None
    assert "its values are not recorded at this step" in str(found.origin)
    assert (
        first_divergence(write(retain=last(3)), write(flip, retain=last(3)), ulp=4).verdict
        == "inconclusive"
    )


def test_the_result_is_json_and_a_table(write: Write) -> None:
    found = first_divergence(write(), write(learning_rates={7: 0.1}))
    fields = found.to_dict()
    assert fields["verdict"] == "differs"
    assert fields["place"]["path"] == "learning_rate"
    frame = found.to_dataframe()
    assert frame["tensor"].tolist() == ["scalars/learning_rate"]
    assert "learning_rate" in found._repr_html_()


def test_tensors_that_are_only_described_do_not_hide_that_all_weights_are_equal(
    write: Write,
) -> None:
    import json
    import shutil

    path = write()
    for kind in ("activations", "weights"):
        shutil.rmtree(path / "statistics" / kind / "digests")
        shutil.rmtree(path / kind / "sequential")
        root = json.loads((path / "zarr.json").read_text())
        root.pop("consolidated_metadata", None)
        root["attributes"]["steptrace"]["version"] = "1.1"
        (path / "zarr.json").write_text(json.dumps(root))
        found = first_divergence(path, path)
        assert found.coverage.by_statistics > 0
        assert any("which does not show that they are equal" in t for t in found.not_compared)
        assert found.verdict == ("equal" if kind == "activations" else "inconclusive")


def test_what_is_not_recorded_at_the_step_is_not_called_equal(write: Write) -> None:
    def without(step: int, arrays: Arrays) -> None:
        if step == 10:
            del arrays["weights/sequential/dense_1/bias"]

    def wrong(step: int, arrays: Arrays) -> None:
        without(step, arrays)
        if step == 10:
            arrays[LOGITS][1, 2] += 1

    found = first_divergence(write(without), write(wrong))
    assert place(found) == (10, "forward", LOGITS)
    assert "the output of dense and kernel are equal, bias not recorded" in str(found.origin)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_another_precision_is_recognised_by_the_last_bits(write: Write, precision: str) -> None:
    def narrow(step: int, arrays: Arrays) -> None:
        if 5 <= step < STEPS:
            values = arrays[KERNEL]
            if precision == "float16":
                arrays[KERNEL] = values.astype("f2").astype("f4")
            else:
                arrays[KERNEL] = (values.view("u4") & np.uint32(0xFFFF0000)).view("f4")

    found = first_divergence(write(), write(narrow))
    assert place(found) == (5, "weights", KERNEL)
    assert found.recognised[0] == (
        f"other precision: {KERNEL} has numbers of float32 in the first run, of {precision} in the "
        "second"
    )
    assert not any("precision" in text for text in first_divergence(write(), write()).recognised)
