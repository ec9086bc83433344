"""Weights of a run are compared with those of a checkpoint, whose file is read safely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import diff_checkpoint
from steptrace_analyzer.differences.checkpoint_files import read_checkpoint
from steptrace_schema.errors import NotATraceError, StepNotRecordedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LAYERS = ("dense", "dense_1")


@pytest.fixture
def weights(make_run: Any) -> Callable[[int], dict[str, Any]]:
    """Return the weights of the healthy run before a step, by their path."""
    records = dict(make_run().records())

    def at(step: int) -> dict[str, Any]:
        return {
            key.removeprefix("weights/"): np.array(value)
            for key, value in records[step].items()
            if key.startswith("weights/")
        }

    return at


def write_h5(path: Path, weights: dict[str, Any], *, named: bool = True) -> Path:
    """Write a file as Keras does: layers by class and number, variables by number."""
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(LAYERS):
            where = "dense" if number == 0 else f"dense_{number}"
            group = file.create_group(f"layers/{where}/vars")
            if named:
                group.attrs["name"] = layer
            for index, name in enumerate(("kernel", "bias")):
                group[str(index)] = weights[f"sequential/{layer}/{name}"]
        file["optimizer/vars/0"] = np.zeros(5, "f4")
    return path


def write_safetensors(path: Path, weights: dict[str, Any]) -> Path:
    save_file({name.replace("/", "."): value for name, value in weights.items()}, path)
    return path


@pytest.mark.parametrize("form", ["h5", "h5 without names", "safetensors"])
def test_a_checkpoint_is_equal_at_its_step_and_differs_at_others(
    healthy_path: Path, weights: Any, tmp_path: Path, form: str
) -> None:
    def write(values: Any, name: str) -> Path:
        if form == "safetensors":
            return write_safetensors(tmp_path / f"{name}.safetensors", values)
        return write_h5(tmp_path / f"{name}.weights.h5", values, named=form == "h5")

    last, early = write(weights(60), "last"), write(weights(17), "early")
    result = diff_checkpoint(healthy_path, last)
    assert (result.verdict, result.coverage.share, len(result.tensors)) == ("equal", 1, 4)
    assert diff_checkpoint(healthy_path, early, step=17).verdict == "equal"
    found = diff_checkpoint(healthy_path, early)
    assert found.verdict == "differs"
    kernel = next(t for t in found.tensors if t.path == "sequential/dense/kernel")
    expected = weights(60)[kernel.path].astype("f8") - weights(17)[kernel.path]
    assert kernel.max_abs == np.abs(expected).max()
    said = [note.found for note in result.not_compared]
    assert any("by order and shape" in text for text in said) == (form == "h5 without names")
    assert any("optimizer/vars/0" == note.name for note in result.not_compared) == ("h5" in form)


def test_one_changed_bit_is_found_with_its_tensor(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, weights: Any, tmp_path: Path
) -> None:
    changed = weights(60)
    changed["sequential/dense_1/kernel"].view("u4")[2, 1] ^= 1
    path = write_h5(tmp_path / "a.weights.h5", changed)
    assert app.run(["diff", str(healthy_path), "--checkpoint", str(path)]) == 1
    out = capsys.readouterr().out
    assert "run.zarr step 60" in out
    assert "differ, first in weights/sequential/dense_1/kernel" in out
    result = diff_checkpoint(healthy_path, path, ulp=1)
    assert result.verdict == "equal"


def test_a_checkpoint_that_lacks_a_weight_is_inconclusive(
    healthy_path: Path, weights: Any, tmp_path: Path
) -> None:
    some = weights(60)
    del some["sequential/dense_1/bias"]
    result = diff_checkpoint(healthy_path, write_safetensors(tmp_path / "a.safetensors", some))
    assert (result.verdict, result.coverage.share) == ("inconclusive", 0.75)
    assert [m.name for m in result.mismatches] == ["weights/sequential/dense_1/bias"]


def test_names_may_be_given(healthy_path: Path, weights: Any, tmp_path: Path) -> None:
    values = weights(60)
    values["head/matrix"] = values.pop("sequential/dense_1/kernel")
    path = write_safetensors(tmp_path / "a.safetensors", values)
    given = {"sequential/dense_1/kernel": "head/matrix"}
    assert diff_checkpoint(healthy_path, path, renamed=given).verdict == "equal"
    with pytest.raises(UnknownNameError, match="the checkpoint has no array 'foot'"):
        diff_checkpoint(healthy_path, path, renamed={"sequential/dense_1/kernel": "foot"})
    with pytest.raises(UnknownNameError, match="the run has no weight 'foot'"):
        diff_checkpoint(healthy_path, path, renamed={"foot": "head/matrix"})
    with pytest.raises(StepNotRecordedError, match="step 99 of 'weights' is not recorded"):
        diff_checkpoint(healthy_path, path, step=99)


def test_bfloat16_is_read_as_the_number_that_it_is(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.0e38, 0.0078125], "f4")
    halves = (values.view("u4") >> np.uint32(16)).astype("<u2")
    expected = (halves.astype("u4") << np.uint32(16)).view("f4")
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        group["0"] = halves
        group["0"].attrs["dtype"] = "bfloat16"
    (stored,) = read_checkpoint(tmp_path / "a.weights.h5")
    assert stored.values.dtype == np.float32
    assert stored.values.tobytes() == expected.tobytes()


def _link(file: Any) -> None:
    file["a"] = np.zeros(3, "f4")
    file["b"] = h5py.SoftLink("/a")


def _outside(file: Any) -> None:
    file["b"] = h5py.ExternalLink("/etc/hosts", "/a")


def _external(file: Any) -> None:
    file.create_dataset("b", (3,), "u1", external=[("/etc/hosts", 0, 3)])


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hosts", "a", (3,))
    file.create_virtual_dataset("b", layout)


def _text(file: Any) -> None:
    file["b"] = "text"


def _bomb(file: Any) -> None:
    file.create_dataset("b", (2**28,), "f4", chunks=(2**20,), compression="gzip")


def _circle(file: Any) -> None:
    group = file.create_group("b")
    group["b"] = group


@pytest.mark.parametrize("make", [_link, _outside, _external, _virtual, _text, _bomb, _circle])
def test_a_file_of_a_stranger_leads_nowhere(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(NotATraceError, match=r"a\.weights\.h5"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["a.weights.h5", "a.safetensors", "a.pkl"])
def test_what_is_no_checkpoint_is_refused(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    with pytest.raises(NotATraceError, match="is no file"):
        read_checkpoint(path)
    path.write_bytes(b"not what its name says")
    assert app.run(["diff", str(healthy_path), "--checkpoint", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
