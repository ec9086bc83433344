"""The C modules under AddressSanitizer and UndefinedBehaviorSanitizer, with arrays of any kind.

`python tests/fuzzing_c.py --count N --seed S` builds them with the sanitizers, into a folder of
its own, and starts itself again with these loaded first. What they compute is compared with NumPy.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

SOURCES: Final = {
    "_describe": "statistics/_describe.c",
    "_strided_copy": "encoding/_strided_copy.c",
}
SCHEMA: Final = Path(__file__).parent.parent / "schema" / "steptrace_schema"
DTYPES: Final = ("f4", "f8", "i4", "i8", "u1", "?", "f2", ">f4", "O", "U3", "c16", "V7")
EXTENTS: Final = (0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 64, 65, 300)


def build(folder: Path) -> None:
    """Compile the modules with the sanitizers."""
    include = sysconfig.get_paths()["include"]
    flags = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fPIC"]
    for name, source in SOURCES.items():
        target = str(folder / f"{name}.so")
        command = ["cc", *flags, "-shared", f"-I{include}", str(SCHEMA / source), "-o", target]
        subprocess.run(command, check=True)


def load(folder: Path, name: str) -> Any:
    """Import one of the compiled modules."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.so")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def array(chance: random.Random, shape: tuple[int, ...], dtype: str | None = None) -> Any:
    """Return an array, a part of a larger one, or one whose axes have changed places."""
    kind = chance.choice(DTYPES) if dtype is None else dtype
    larger = tuple(n + chance.choice((0, 0, 1, 5)) for n in shape)
    order = chance.sample(range(len(shape)), len(shape)) if chance.randrange(2) else None
    stored = larger if order is None else tuple(larger[axis] for axis in order)
    raw = np.frombuffer(chance.randbytes(8 * int(np.prod(stored)) or 8), "u1")
    values = np.resize(raw, stored).astype("f8")
    with np.errstate(all="ignore"):
        found = np.zeros(stored, kind) if kind in ("V7",) else values.astype(kind)
    if order is not None:
        found = found.transpose(np.argsort(order))
    part: tuple[Any, ...] = (*(slice(0, n) for n in shape), ...)
    return found[part]


def shape(chance: random.Random, rank: int) -> tuple[int, ...]:
    """Return extents whose product is small."""
    found = [chance.choice(EXTENTS) for _ in range(rank)]
    while np.prod([max(1, n) for n in found]) > 20_000:
        found[found.index(max(found))] = 3
    return tuple(found)


def copies(chance: random.Random, module: Any) -> None:
    """Copy between two arrays, which fit or do not."""
    extents = shape(chance, chance.randrange(5))
    target = array(chance, extents)
    fits = chance.randrange(4)
    source = array(chance, extents if fits else shape(chance, len(extents)), target.dtype.str)
    if chance.randrange(8) == 0:
        source = array(chance, extents)
    expected = np.array(source)
    try:
        module.copy_strided(target, source)
    except (ValueError, TypeError, BufferError):
        same = target.shape == source.shape and target.dtype == source.dtype
        assert not (same and target.dtype.kind in "fiub"), (target.dtype, target.shape)
        return
    assert target.tobytes() == expected.tobytes()


def sums(chance: random.Random, module: Any) -> None:
    """Sum rows, with a result that fits or does not."""
    extents = shape(chance, chance.choice((2, 2, 2, 1, 3)))
    dtype = chance.choice(("f4", "f8", "f8", "i4", "O", ">f4"))
    rows = np.ascontiguousarray(array(chance, extents, dtype))
    minus = None
    if chance.randrange(2):
        other = extents if chance.randrange(3) else shape(chance, 2)
        minus = np.ascontiguousarray(array(chance, other, dtype))
    out = np.zeros((extents[0] if chance.randrange(4) else chance.randrange(9), 6))
    with contextlib.suppress(ValueError, TypeError, BufferError):
        module.row_sums(rows, minus, out)
        values = rows.astype("f8") if minus is None else (rows - minus).astype("f8")
        assert np.allclose(out[:, 0], values.sum(axis=1), rtol=1e-5, atol=1e-5)


def describes(chance: random.Random, module: Any) -> None:
    """Describe rows, with percentiles that there are, or are not."""
    height, width = chance.randrange(4), chance.choice((0, 1, 2, 17, 300, 5000))
    dtype = chance.choice(("f4", "f8"))
    rng = np.random.default_rng(chance.randrange(2**32))
    rows, minus = rng.normal(size=(2, height, width)).astype(dtype)
    others = (None, minus, minus[:, 1:].copy())[chance.randrange(3)]
    count, stride = chance.choice((0, 1, 7, 16, 17)), chance.choice((1, 2, 7, 9000, 0, -1))
    quantiles = np.array([chance.random() * chance.choice((1, 1, 1.1)) for _ in range(count)])
    quantiles = np.sort(quantiles) if chance.randrange(4) else quantiles
    out = np.zeros((height, 9 + count if chance.randrange(5) else count))
    with contextlib.suppress(ValueError, TypeError, BufferError):
        module.describe_rows(rows, others, stride, quantiles, out)
        values = (rows if others is None else rows - others).astype("f8")
        assert np.allclose(out[:, 1], values.std(axis=1), rtol=1e-5, atol=1e-5)
        expected = np.quantile(values[:, ::stride], quantiles, axis=1).T
        assert np.allclose(out[:, 9:], expected, rtol=1e-5, atol=1e-5)


def main() -> int:
    """Run many calls; the exit status says whether all ended well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--built", type=Path)
    chosen = parser.parse_args()
    if chosen.built is None and shutil.which("cc") is None:
        print("no C compiler: the package is built without these modules", flush=True)
        return 0
    if chosen.built is None:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            found = [
                subprocess.check_output(["cc", f"-print-file-name={name}"], text=True).strip()
                for name in ("libasan.so", "libubsan.so")
            ]
            environment = os.environ | {
                "LD_PRELOAD": " ".join(found),
                "ASAN_OPTIONS": "detect_leaks=0",
                "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            }
            command = [sys.executable, __file__, *sys.argv[1:], "--built", folder]
            return subprocess.run(command, env=environment, check=False).returncode
    copy, statistics = (load(chosen.built, name) for name in ("_strided_copy", "_describe"))
    for number in range(chosen.count):
        chance = random.Random(f"c-{chosen.seed}-{number}")
        for act, module in ((copies, copy), (sums, statistics), (describes, statistics)):
            try:
                act(chance, module)
            except BaseException:
                print(f"c {chosen.seed} {number}: {act.__name__}", flush=True)
                raise
    print(f"C modules: {3 * chosen.count} inputs, seed {chosen.seed}, 0 failures", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
