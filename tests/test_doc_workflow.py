"""The workflow in docs/comparing.md runs: its commands pass for an equal run, and find a fault."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]

SCRIPT = """
import keras, numpy as np
keras.utils.set_random_seed(5)
rng = np.random.default_rng(5)
x, y = rng.normal(size=(48, 4)).astype("f4"), rng.normal(size=(48, 2)).astype("f4")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)])
model.compile(keras.optimizers.SGD(0.05), "mse")
model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
"""
INSTALL = 'pip install "steptrace[tensorflow]"'


def _text() -> str:
    return (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")


def run_lines() -> list[str]:
    """Return the commands of the workflow."""
    found = re.search(r"^    name: golden run\n(?:    .*\n)+", _text(), re.MULTILINE)
    assert found is not None
    workflow = yaml.safe_load(textwrap.dedent(found.group()))
    (job,) = workflow["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_installs_records_and_compares() -> None:
    install, record, diff = run_lines()
    assert install == INSTALL
    assert record.startswith("steptrace record ")
    assert "--golden golden.fp.json" in diff
    assert f"    {record}\n    steptrace fingerprint run.zarr -o golden.fp.json\n" in _text()


@pytest.mark.slow
def test_the_commands_of_the_workflow_pass_and_find_a_fault(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    command = binaries / "steptrace"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m steptrace_analyzer "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    _, record, diff = run_lines()
    (tmp_path / "train.py").write_text(SCRIPT)
    for line in (record, "steptrace fingerprint run.zarr -o golden.fp.json", diff):
        done = shell(line)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "diff.sarif").read_text())["runs"][0]["results"] == []
    (tmp_path / "train.py").write_text(SCRIPT.replace("SGD(0.05)", "SGD(0.06)"))
    assert shell(record.replace("record", "record --overwrite")).returncode == 0
    done = shell(diff)
    assert done.returncode == 1
    assert "step 0, update, scalars/learning_rate: other hyper-parameters" in done.stdout
    (found,) = json.loads((tmp_path / "diff.sarif").read_text())["runs"][0]["results"]
    assert (found["level"], found["properties"]["step"]) == ("error", 0)
    assert ElementTree.parse(tmp_path / "diff.xml").getroot()[0].get("failures") == "1"
    assert "other hyper-parameters" in (tmp_path / "diff.html").read_text()
