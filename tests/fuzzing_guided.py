"""The inputs of `fuzzing.py` and `fuzzing_c.py`, found by what code they reach.

`python tests/fuzzing_guided.py TARGET --runs N --seed S` starts itself again with AddressSanitizer
loaded first, and has libFuzzer, by way of the package atheris, choose the bytes that every random
decision is taken from. The C modules are built with the sanitizer, into a folder of their own.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

C_TARGETS: Final = {
    "copies": "_strided_copy",
    "sums": "_describe",
    "describes": "_describe",
}
TARGETS: Final = ("decoders", "metadata", "chunks", "journals", "rings", "zips", *C_TARGETS)
_LOADED: Final = "STEPTRACE_FUZZING_LOADED"


class FromBytes(random.Random):
    """Takes every decision from bytes; when they are used up, the first choice."""

    def __init__(self, content: bytes) -> None:
        super().__init__(0)
        self._content = content
        self._at = 0

    def getrandbits(self, k: int) -> int:
        """Return the next bits."""
        taken = self._content[self._at : self._at + (k + 7) // 8]
        self._at += len(taken)
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """Return a number of the next bits."""
        return self.getrandbits(32) / 2**32


def build(folder: Path) -> None:
    """Compile the C modules with the sanitizer, whose library is there when they are loaded."""
    from fuzzing_c import SCHEMA, SOURCES

    include = sysconfig.get_paths()["include"]
    flags = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address", "-fPIC"]
    for name, source in SOURCES.items():
        made = str(folder / f"{name}.o")
        command = ["cc", *flags, "-c", f"-I{include}", str(SCHEMA / source), "-o", made]
        subprocess.run(command, check=True)
        subprocess.run(["cc", "-shared", made, "-o", str(folder / f"{name}.so")], check=True)


def c_input(name: str, module: Any, content: bytes) -> None:
    """Call one of the C modules."""
    import fuzzing_c

    getattr(fuzzing_c, name)(FromBytes(content), module)


def trace_input(target: str, material: Any, content: bytes) -> None:
    """Change a trace, a journal or a packed file, and give it to the commands."""
    from fuzzing import one

    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.exists() else None))
    try:
        one(target, FromBytes(content), material, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def decoder_input(content: bytes) -> None:
    """Decode the bytes themselves as a chunk with a right checksum."""
    import numpy as np

    from hostile import with_checksum
    from steptrace_schema.encoding.profiles import encoding
    from steptrace_schema.format.layout import ArraySpec

    kinds: Any = ("weights", "gradients")
    profiles: Any = ("fast", "compact")
    dtypes = ("float32", "float64", "int64", "uint8", "bool", "float16")
    head, body = content[:1] or b"\0", content[1:]
    kind, profile = kinds[head[0] & 1], profiles[head[0] >> 1 & 1]
    dtype = dtypes[(head[0] >> 2) % len(dtypes)]
    found = encoding(ArraySpec(kind, "a/b", ("in", "out"), (5, 16), dtype), profile, 8)
    try:
        decoded = found.decode(with_checksum(body), np.dtype(dtype))
    except ValueError:
        return
    assert decoded.shape == found.chunks


def _seeds(folder: Path) -> None:
    """Write chunks that are right, for the fuzzer to begin with."""
    import numpy as np

    from steptrace_schema.encoding.profiles import encoding
    from steptrace_schema.format.layout import ArraySpec

    kinds: Any = ("weights", "gradients")
    profiles: Any = ("fast", "compact")
    dtypes = ("float32", "float64", "int64", "uint8", "bool", "float16")
    for number in range(24):
        kind, profile = kinds[number & 1], profiles[number >> 1 & 1]
        dtype = dtypes[(number >> 2) % len(dtypes)]
        found = encoding(ArraySpec(kind, "a/b", ("in", "out"), (5, 16), dtype), profile, 8)
        values = (np.random.default_rng(number).normal(size=found.chunks) * 9).round(1)
        content = bytes(found.encode(values.astype(dtype))[0])
        (folder / str(number)).write_bytes(bytes([number]) + content)


def _start_again(chosen: argparse.Namespace) -> int:
    """Start this program with the sanitizer's library loaded before Python."""
    import atheris

    library = Path(atheris.path()) / "asan_with_fuzzer.so"
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:symbolize=0",
        _LOADED: "1",
    }
    command = [sys.executable, __file__, chosen.target, "--runs", str(chosen.runs)]
    command += ["--seed", str(chosen.seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-8000:], flush=True)
        print(f"{chosen.target}: failed, seed {chosen.seed}", flush=True)
        return 1
    covered = [part for line in done.stderr.splitlines() if " cov: " in line for part in [line]]
    reached = covered[-1].split(" cov: ")[1].split()[0] if covered else "?"
    print(
        f"{chosen.target}, guided: {chosen.runs} inputs, seed {chosen.seed}, 0 failures, "
        f"{reached} places reached",
        flush=True,
    )
    return 0


def _fuzz(chosen: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=["steptrace_schema", "steptrace_analyzer"]):
        import steptrace_schema.encoding.codecs
        import steptrace_schema.encoding.profiles
        import steptrace_schema.validate  # noqa: F401

        if chosen.target not in C_TARGETS and chosen.target != "decoders":
            from fuzzing import Material
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        run: Callable[[bytes], None]
        if chosen.target in C_TARGETS:
            from fuzzing_c import load

            build(folder)
            module = load(folder, C_TARGETS[chosen.target])
            run = functools.partial(c_input, chosen.target, module)
        elif chosen.target == "decoders":
            _seeds(corpus)
            run = decoder_input
        else:
            (folder / "material").mkdir()
            run = functools.partial(trace_input, chosen.target, Material(folder / "material"))
        atheris.Setup(
            [
                sys.argv[0],
                f"-runs={chosen.runs}",
                f"-seed={chosen.seed + 1}",  # which takes 0 for the time
                "-max_len=2048",
                "-timeout=60",
                "-rss_limit_mb=4096",
                f"-artifact_prefix={tempfile.gettempdir()}/steptrace-{chosen.target}-",
                str(corpus),
            ],
            run,
        )
        atheris.Fuzz()


def main() -> int:
    """Run many inputs of one target; the exit status says whether all ended well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("the package atheris is not installed: inputs are not guided", flush=True)
        return 0
    if _LOADED not in os.environ:
        return _start_again(chosen)
    _fuzz(chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
