"""A trace opens, with the same numbers, in programs that know nothing of steptrace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore

from journals import random_steps, write_journal
from steptrace_schema.moving.recover import recover

if TYPE_CHECKING:
    import numpy.typing as npt

ROOT = Path(__file__).parents[1]

PLAIN_READER = """
import json, sys
import xarray, zarr

tree = xarray.open_datatree(sys.argv[1], engine="zarr", consolidated=True)
group = zarr.open_group(sys.argv[1], mode="r")
kernel = tree["weights/dense/kernel"]
print(json.dumps({
    "xarray": kernel.values.tobytes().hex(),
    "zarr": group["weights/dense/kernel"][...].tobytes().hex(),
    "dims": kernel.dims,
    "steps": kernel["step"].values.tolist(),
    "statistics": group["statistics/updates/values"].attrs["statistics"],
    "status": tree.attrs["steptrace"]["status"],
    "steptrace": any(name.startswith("steptrace") for name in sys.modules),
}))
"""

BLOCK = """
import sys
for name in ("steptrace_schema", "steptrace_analyzer", "steptrace_tracer"):
    sys.modules[name] = None
"""


@pytest.fixture
def trace(tmp_path: Path) -> tuple[Path, npt.NDArray[Any]]:
    """Return a trace of the fast profile over two shards, and the weights that it holds."""
    steps = random_steps(20)
    path = tmp_path / "run.zarr"
    write_journal(path, steps, shard_steps=16)
    recover(path)
    return path, np.stack([arrays["weights/dense/kernel"] for _, arrays in steps])


def check(output: str, weights: npt.NDArray[Any]) -> None:
    found = json.loads(output)
    assert found["xarray"] == found["zarr"] == weights.tobytes().hex()
    assert found["dims"] == ["step", "d0", "d1"]
    assert found["steps"] == list(range(21))
    assert found["statistics"][5] == "l2"
    assert found["status"] == "incomplete"


def test_plain_zarr_and_xarray_read_it(trace: tuple[Path, npt.NDArray[Any]]) -> None:
    path, weights = trace
    script = BLOCK + PLAIN_READER
    command = [sys.executable, "-W", "error", "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    check(done.stdout, weights)


@pytest.mark.slow
def test_an_environment_without_steptrace_reads_it(
    trace: tuple[Path, npt.NDArray[Any]], tmp_path: Path
) -> None:
    path, weights = trace
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "zarr", "xarray"], check=True)
    done = subprocess.run(
        [python, "-c", PLAIN_READER, path], capture_output=True, text=True, check=True
    )
    check(done.stdout, weights)
    assert json.loads(done.stdout)["steptrace"] is False


def test_tensorstore_reads_it(trace: tuple[Path, npt.NDArray[Any]]) -> None:
    path, weights = trace
    array = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path / "weights/dense/kernel")},
        }
    ).result()
    assert array.domain.labels == ("step", "d0", "d1")
    assert np.array_equal(array.read().result(), weights)


@pytest.mark.slow
def test_the_analyzer_works_in_an_environment_without_tensorflow(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    bin_folder = tmp_path / "venv" / "bin"
    subprocess.run([bin_folder / "python", "-m", "pip", "install", "-q", ROOT], check=True)
    listed = subprocess.run(
        [bin_folder / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True
    )
    assert "tensorflow" not in listed.stdout.lower()
    trace = sorted((ROOT / "tests" / "archives" / "1.0").glob("*.zip"))[0]

    def steptrace(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(bin_folder / "steptrace"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    name = str(trace)
    for arguments, code in [
        (("--help",), 0),
        (("info", name), 0),
        (("info", name, "--json"), 0),
        (("validate", name), 0),
        (("diff", name, name), 0),
        (("diff", name, "--steps", "1", "2"), 1),
        (("anomalies", name), 0),
        (("plot", "loss", name, "-o", "loss.png"), 0),
        (("plot", "weights", name, "-o", "weights.svg"), 0),
        (("plot", "parameters", name, "-o", "parameters.pdf"), 0),
        (("plot", "activations", name, "-o", "activations.png"), 0),
        (("plot", "gradients", name, "-o", "gradients.png"), 0),
        (("report", name, "-o", "report.html"), 0),
        (("unpack", name, "-o", "unpacked.zarr"), 0),
        (("pack", "unpacked.zarr", "-o", "again.zarr.zip"), 0),
        (("recover", "unpacked.zarr"), 0),
    ]:
        done = steptrace(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    demo = steptrace("demo")
    assert demo.returncode == 2
    assert "pip install 'steptrace[tensorflow]'" in demo.stderr
    assert "Traceback" not in demo.stderr
