"""Changed traces, journals and packed files, with right checksums, given to the commands.

Every input has to end in a result or in one sentence: nothing unexpected, no traceback, nothing
written outside, within `SECONDS` and `BYTES`. `python tests/fuzzing.py TARGET --count N --seed S`
runs many; `tests/fuzz/` runs some of each target in every test run.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hostile import shard_of, with_checksum
from journals import attributes, random_steps, write_journal
from steptrace_analyzer.cli.app import run
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.packing import pack
from steptrace_schema.encoding import chunk_shapes
from steptrace_schema.encoding.array_metadata import ArrayMetadata
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.errors import TraceError
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.policy import Policy
from steptrace_schema.format.retention import around
from steptrace_schema.format.root_checksum import sealed
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.record_file import write_record_file
from steptrace_schema.journal.ring import RING_FILE, RingSize, record_checksum
from steptrace_schema.moving.recover import recover
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SECONDS: Final = 30
BYTES: Final = 2 * 2**30
Random = random.Random

NUMBERS: Final[tuple[object, ...]] = (
    *(-1, 0, 1, 2, 7, 8, 255, 256, 65536, 2**31 - 1, 2**31, 2**32, 2**48, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, 10**30, 0.5, -0.0, 1e308, 1e-320),
)
TEXTS: Final = (
    *("", ".", "..", "/", "../../x", "a/../b", "\0", "\x1b[31m", "\n", "$x$", "<b>", "NaN"),
    *("Infinity", "object", "float32", "int64", "uint8", "string", "step", "sample", "weights"),
    *("zarr.json", "sharding_indexed", "blosc", "gzip", "zstd", "transpose", "\u202e", "x" * 5000),
    *("con", "a:b", "complete", "recording", "numcodecs.pickle", "0x7fc00000", "9" * 4000),
)


def value(random: Random) -> object:
    """Return any JSON value that a stranger could write."""
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind < 5:
        return random.choice(TEXTS)
    if kind == 5:
        return random.choice((None, True, False, [], {}, [[]], [{}], {"": 0}))
    if kind == 6:
        return [random.choice((*NUMBERS, *TEXTS)) for _ in range(random.randrange(4))]
    return {random.choice(TEXTS): random.choice(NUMBERS)}


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a JSON tree: what holds it, and its key or number."""
    stack = [tree]
    while stack:
        node = stack.pop()
        pairs: Sequence[tuple[Any, Any]] = ()
        if isinstance(node, dict):
            pairs = [*node.items()]
        elif isinstance(node, list):
            pairs = [*enumerate(node)]
        for key, child in pairs:
            yield node, key
            stack.append(child)


def mutate(random: Random, tree: Any) -> None:
    """Change a JSON tree in one to three places."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        found = [*places(tree)]
        if not found:
            return
        node, key = random.choice(found)
        act = random.randrange(7)
        if act == 0:
            del node[key]
        elif act == 1:
            other, at = random.choice(found)
            with contextlib.suppress(RecursionError):  # deep already
                node[key] = copy.deepcopy(other[at])
        elif act == 2 and isinstance(node, dict):
            node[random.choice(TEXTS)] = node.pop(key)
        elif act == 3 and isinstance(node, list):
            node.extend(copy.deepcopy(node[:1]) * random.choice((1, 2, 40)))
        elif act == 4 and isinstance(node[key], int):
            node[key] += random.choice((-1, 1, 2**16, 2**31))
        elif act == 5:
            depth = random.choice((5, 60, 70, 400))
            for _ in range(depth):
                node[key] = [node[key]] if random.randrange(2) else {"a": node[key]}
        else:
            node[key] = value(random)


def scramble(random: Random, content: bytes) -> bytes:
    """Change, cut or lengthen some bytes."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        act = random.randrange(6)
        at = random.randrange(len(changed) + 1) if changed else 0
        if random.randrange(2):
            at = min(at, random.randrange(33))
        if act == 0:
            del changed[at : at + random.choice((1, 4, 64))]
        elif act == 1:
            changed[at:at] = random.randbytes(random.choice((1, 4, 16)))
        elif act == 2:
            number = random.choice((0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1))
            changed[at : at + 4] = number.to_bytes(4, "little")
        elif changed:
            changed[min(at, len(changed) - 1)] = random.randrange(256)
    return bytes(changed)


def _sound_trace(store: Path, profile: str) -> None:
    """Write a finished trace of one kind of encoding, with a static array and statistics."""
    fields: dict[str, Any] = {"shard_steps": 8, "policy": Policy(profile=profile)}  # type: ignore[arg-type]
    writer = write_journal(store, random_steps(11), **fields)
    arrays = JournalReader(writer.directory).declaration().arrays
    static = ArraySpec("probe", "x", ("sample",), (5,), "float32", static=True)
    described = attributes(declared={"probe": ("x",)}, **fields)
    writer.declare(Declaration(described, (*arrays, static)))
    writer.append(12, {static.key: np.arange(5, dtype=np.float32)})
    writer.close("complete", None, described)
    recover(store)


def _of_another_program(store: Path) -> None:
    """Encode arrays of a trace as other programs do: zstd, gzip, big endian."""
    import zarr
    from zarr.codecs import BytesCodec, GzipCodec, ZstdCodec

    root = json.loads((store / "zarr.json").read_bytes())
    root.pop("consolidated_metadata", None)
    (store / "zarr.json").write_bytes(sealed(root))
    for key, keywords in {
        "weights/dense/kernel": {"compressors": [ZstdCodec()], "shards": (8, 3, 4)},
        "gradients/dense/kernel": {"compressors": [GzipCodec()]},
        "scalars/loss": {"serializer": BytesCodec(endian="big"), "compressors": None},
    }.items():
        array = zarr.open_array(store / key, mode="r")
        values, names = np.asarray(array), array.metadata.dimension_names  # type: ignore[union-attr]
        shutil.rmtree(store / key)
        zarr.create_array(
            store / key,
            data=values,
            chunks=(4, *values.shape[1:]),
            dimension_names=names,
            fill_value=np.nan,
            **keywords,  # type: ignore[arg-type]
        )


class Material:
    """Sound traces, and the journal of a killed run, as files in memory."""

    def __init__(self, folder: Path) -> None:
        self.traces: list[dict[str, bytes]] = []
        chunk_shapes._SMALL_CHUNK = 256  # so that shards of small arrays have several chunks
        for profile in ("none", "fast", "compact", "other"):
            store = folder / f"{profile}.zarr"
            _sound_trace(store, "fast" if profile == "other" else profile)
            if profile == "other":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    _of_another_program(store)
            assert {p.rule for p in validate(store)} <= {"R11"}, profile
            self.traces.append(_files(store))
        self.packed: list[bytes] = []
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            if method == zipfile.ZIP_STORED:
                self.packed.append(pack(folder / "fast.zarr", folder / "a.zarr.zip").read_bytes())
                continue
            with zipfile.ZipFile(folder / "b.zarr.zip", "w", method) as archive:
                for name, content in self.traces[1].items():
                    archive.writestr(name, content)
            self.packed.append((folder / "b.zarr.zip").read_bytes())
        self.journals: list[dict[str, bytes]] = []
        for retain in ("all", around("non_finite").model_dump()):
            fields: dict[str, Any] = {"shard_steps": 8, "policy": {"retain": retain}}
            writer = write_journal(
                folder / f"killed{len(self.journals)}.zarr", random_steps(9), **fields
            )
            (writer.directory / "noted.json").write_text("[3, [2], [0.5, 0.25]]")
            writer._release()
            self.journals.append(_files(writer.directory))
        writer = write_journal(
            folder / "ring.zarr", random_steps(9), shard_steps=8, ring=RingSize(16, 4096)
        )
        writer._release()
        self.ring = _files(writer.directory)
        assert not any(name.endswith(".safetensors") for name in self.ring)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Unexpected(Exception):
    """An input ended in another way than a result or one sentence."""


def _command(*arguments: str) -> None:
    """Run a command line, which has to end in a result or in one sentence."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*arguments])
    said = err.getvalue()
    if (
        code not in (0, 1, 2)
        or "error: unexpected " in said
        or "Traceback" in said
        or "\x1b" in said
    ):
        msg = f"steptrace {' '.join(arguments)}: exit status {code}: {said[-4000:]}"
        raise Unexpected(msg)
    if "\x1b" in out.getvalue():
        msg = f"steptrace {' '.join(arguments)} wrote control characters"
        raise Unexpected(msg)


def _load_all(path: Path) -> None:
    """Read every array of a trace, as a user may."""
    with contextlib.suppress(TraceError, OSError):
        tree = open_trace(path)
        for node in tree.subtree:
            for name in node.data_vars:
                array = node[str(name)]
                if array.nbytes <= 2**26:
                    with contextlib.suppress(TraceError, OSError):
                        array.load()


def _use(random: Random, path: Path) -> None:
    _command("validate", str(path))
    if random.randrange(2):
        _load_all(path)
    else:
        command = random.choice(("info", "anomalies", "diff"))
        steps = ("--steps", "2", "5") if command == "diff" else ()
        _command(command, str(path), *steps)


def fuzz_metadata(random: Random, material: Material, folder: Path) -> None:
    """Change the metadata of a group or array, its copy and the checksum with it."""
    store = folder / "run.zarr"
    files = dict(random.choice(material.traces))
    root = json.loads(files["zarr.json"])
    names = [name for name in files if name.endswith("zarr.json")]
    for name in random.sample(names, random.choice((1, 1, 1, 2))):
        if name == "zarr.json":
            mutate(random, root["attributes"] if random.randrange(4) else root)
            continue
        metadata = json.loads(files[name])
        mutate(random, metadata)
        files[name] = json.dumps(metadata).encode()
        entries = root.get("consolidated_metadata", {}).get("metadata", {})
        if name.removesuffix("/zarr.json") in entries:
            entries[name.removesuffix("/zarr.json")] = metadata
    if random.randrange(4) == 0:
        root.pop("consolidated_metadata", None)
    try:
        files["zarr.json"] = sealed(root)
    except (KeyError, TypeError, AttributeError, ValueError):
        files["zarr.json"] = json.dumps(root).encode()
    _write(store, files)
    _use(random, store)


def fuzz_chunks(random: Random, material: Material, folder: Path) -> None:
    """Change chunks inside of their objects, with right checksums of chunks and indices."""
    store = folder / "run.zarr"
    files = dict(random.choice(material.traces))
    names = [name for name in files if not name.endswith("zarr.json")]
    for name in random.sample(names, random.choice((1, 1, 2, 4))):
        key = name.rpartition("/c")[0]
        metadata = ArrayMetadata.parse(key, json.loads(files[f"{key}/zarr.json"]))
        files[name] = _changed_object(random, metadata, files[name])
    _write(store, files)
    _use(random, store)


def _changed_object(random: Random, metadata: ArrayMetadata, content: bytes) -> bytes:
    has_checksum = isinstance(metadata.encoding, Encoding)
    shards = metadata.encoding.shards
    if shards is None:
        changed = scramble(random, content[:-4] if has_checksum else content)
        return with_checksum(changed) if has_checksum else changed
    chunks = metadata.encoding.chunks
    counts = tuple(n // c for n, c in zip(shards, chunks, strict=True))
    length = int(np.prod(counts)) * 16
    index = np.frombuffer(content[-length - 4 : -4], "<u8").reshape(-1, 2)
    parts = [content[at : at + size] for at, size in index.tolist() if at != 2**64 - 1]
    act = random.randrange(4)
    if act == 0:
        table = bytearray(index.tobytes())
        return content[: -length - 4] + with_checksum(scramble(random, bytes(table)))
    if act == 1:
        changed_index = index.copy()
        row = random.randrange(len(changed_index))
        changed_index[row, random.randrange(2)] = random.choice((0, 1, 2**31, 2**62, 2**64 - 1))
        return content[: -length - 4] + with_checksum(changed_index.tobytes())
    at = random.randrange(len(parts))
    part = parts[at][:-4] if has_checksum else parts[at]
    changed = scramble(random, part)
    parts[at] = with_checksum(changed) if has_checksum else changed
    if len(parts) < len(index):
        return b"".join(parts) + with_checksum(index.tobytes())
    return shard_of(parts, counts)


def fuzz_decoders(random: Random, material: Material, folder: Path) -> None:
    """Change the content of a chunk and decode it: as often as in 50 traces."""
    for _ in range(50):
        profile: Any = random.choice(("fast", "compact"))
        kind: Any = random.choice(("weights", "gradients"))
        dtype = random.choice(("float32", "float64", "int64", "uint8", "bool", "float16"))
        spec = ArraySpec(kind, "a/b", ("in", "out"), (random.choice((1, 5, 40)), 16), dtype)
        found = encoding(spec, profile, 8)
        sound = np.random.default_rng(random.randrange(2**32)).normal(size=found.chunks) * 9
        content = bytes(found.encode(sound.round(1).astype(dtype))[0])
        with contextlib.suppress(ValueError):
            found.decode(with_checksum(scramble(random, content)), np.dtype(dtype))


def fuzz_journals(random: Random, material: Material, folder: Path) -> None:
    """Change the files of a journal of a killed run, and recover it."""
    store, journal = folder / "run.zarr", folder / "run.zarr.journal"
    files = dict(random.choice(material.journals))
    files.pop("ballast", None)
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(["declaration.json"] * 6 + ["closed.json", "noted.json", *files])
        act = random.randrange(4)
        if name.endswith(".json") and act:
            text = files.get(name)
            if text is None:
                declared = json.loads(material.journals[0]["declaration.json"])["attributes"]
                text = json.dumps(
                    {"status": "complete", "reason": None, "attributes": declared}
                ).encode()
            try:
                tree = [json.loads(text)]
            except ValueError:  # changed already
                continue
            mutate(random, tree)
            files[name] = json.dumps(tree[0] if tree else None).encode()
        elif name.endswith(".safetensors") and act > 1:
            files[name] = _changed_record(random, files[name])
        elif name in files:
            files[name] = scramble(random, files[name])
    _write(journal, files)
    if random.randrange(3) == 0:
        _load_all(store)
        _command("info", str(store))
    _command("recover", str(store))
    if store.exists() and random.randrange(4) == 0:
        _use(random, store)


def fuzz_rings(random: Random, material: Material, folder: Path) -> None:
    """Change the table and the slots of a killed run's ring, most with right checksums."""
    store, journal = folder / "run.zarr", folder / "run.zarr.journal"
    files = dict(material.ring)
    files.pop("ballast", None)
    content = bytearray(files[RING_FILE])
    size = RingSize(*(int(n) for n in np.frombuffer(content[16:32], "<u8")))
    if random.randrange(5) == 0:
        end = random.choice((32, size.first_slot, len(content)))
        content[:end] = scramble(random, bytes(content[:end]))
    else:
        for _ in range(random.choice((1, 1, 2, 4))):
            _change_slot(random, content, size)
    files[RING_FILE] = bytes(content)
    _write(journal, files)
    if random.randrange(2):
        _load_all(store)
        _command("info", str(store))
    _command("recover", str(store))
    if store.exists() and random.randrange(4) == 0:
        _use(random, store)


def _change_slot(random: Random, content: bytearray, size: RingSize) -> None:
    """Change a record in a ring, or what the table says of it, and give it a right checksum."""
    slot = random.randrange(10)
    at, begin = 32 + slot * 32, size.slot_at(slot)
    record, length, step, checksum = (int(n) for n in np.frombuffer(content[at : at + 32], "<u8"))
    data = bytes(content[begin : begin + length])
    act = random.randrange(5)
    numbers = [n for n in NUMBERS if isinstance(n, int) and 0 <= n < 2**64]
    if act == 0:
        record = random.choice((*numbers, 1, 2, 5, 12))
    elif act == 1:
        step = random.choice((*numbers, 0, 3, 10**18 - 1))
    elif act == 2:
        length = random.choice(numbers)
        data = bytes(content[begin : begin + min(length, 4096)])
    else:
        data = _changed_record(random, data)[: size.slot_bytes]
        length = len(data)
    fields = np.array([record, length, step], "<u8").tobytes()
    if random.randrange(8):
        checksum = record_checksum(fields, [memoryview(data)])
    content[at : at + 32] = fields + checksum.to_bytes(8, "little")
    content[begin : begin + len(data)] = data


def _changed_record(random: Random, content: bytes) -> bytes:
    """Change a record's header, with a right length, or give it other arrays."""
    if random.randrange(2):
        path = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}.safetensors"
        shapes = ((), (3, 4), (3, 5), (4, 3), (1, 1), (0,), (3, 4, 1), (1000, 1000))
        dtypes = ("float32", "float64", "int64", "bool", "uint8", "float16")
        keys = ("weights/dense/kernel", "gradients/dense/kernel", "scalars/loss", "x/y", "weights")
        arrays = {
            key: np.ones(random.choice(shapes), random.choice(dtypes))
            for key in random.sample(keys, random.randrange(1, 4))
        }
        write_record_file(path, arrays, {"step": str(random.choice((0, 3, -1, 2**40, "x", "")))})
        return path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        tree = [json.loads(content[8 : 8 + length])]
    except ValueError:  # changed already
        return scramble(random, content)
    mutate(random, tree)
    text = json.dumps(tree[0] if tree else None).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def fuzz_zips(random: Random, material: Material, folder: Path) -> None:
    """Change a packed trace: its bytes, its directory, and members with right checksums."""
    path = folder / "run.zarr.zip"
    act = random.randrange(3)
    content = random.choice(material.packed)
    if act == 0:
        content = scramble(random, content)
    elif act == 1:
        begin = content.index(b"PK\x01\x02")
        content = content[:begin] + scramble(random, content[begin:])
    else:
        files = dict(random.choice(material.traces))
        buffer = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
            warnings.simplefilter("ignore")
            for name, data in files.items():
                archive.writestr(
                    name, data, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
                )
            name = random.choice([*files, *TEXTS])
            data = random.choice((b"", bytes(2**22), b"[" * 10**5, scramble(random, b"{}" * 50)))
            archive.writestr(zipfile.ZipInfo(name or "x"), data, zipfile.ZIP_DEFLATED)
        content = buffer.getvalue()
    path.write_bytes(content)
    _use(random, path)
    _command("unpack", str(path), "--output", str(folder / "out.zarr"))


TARGETS: Final[dict[str, Callable[[Random, Material, Path], None]]] = {
    "metadata": fuzz_metadata,
    "chunks": fuzz_chunks,
    "decoders": fuzz_decoders,
    "journals": fuzz_journals,
    "rings": fuzz_rings,
    "zips": fuzz_zips,
}
INPUTS: Final = {"decoders": 50}
"""How many inputs one run of a target is, where it is not one."""


def one(target: str, random: Random, material: Material, folder: Path) -> None:
    """Give one input to the commands, and look at what they left.

    Raises
    ------
    Unexpected
        If it ends in another way than a result or one sentence.
    """
    inside = folder / "in" / "side"
    inside.mkdir(parents=True)
    begin = time.process_time()  # a machine that rests says nothing
    try:
        TARGETS[target](random, material, inside)
    except (TraceError, OSError) as error:
        msg = f"{type(error).__name__} got out: {error}"
        raise Unexpected(msg) from error
    seconds = time.process_time() - begin
    left = {path.name for path in folder.iterdir()} | {p.name for p in inside.parent.iterdir()}
    if left != {"in", "side"}:
        msg = f"written outside: {left}"
        raise Unexpected(msg)
    if seconds > SECONDS:
        msg = f"took {seconds:.0f} s"
        raise Unexpected(msg)


_MEMORY: Final = Path("/dev/shm")


def _too_long(number: int, frame: object) -> None:
    msg = f"took more than {SECONDS} s"
    raise Unexpected(msg)


def _some(
    material: Material, target: str, seed: int, begin: int, end: int, now: Any, failures: Any
) -> None:
    """Run inputs with these numbers, in a process that may crash."""
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("ignore")
    base = tempfile.mkdtemp(dir=_MEMORY if _MEMORY.exists() else None)
    try:
        for number in range(begin, end):
            now.value = number
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            folder = Path(base) / "input"
            folder.mkdir()
            signal.alarm(2 * SECONDS)
            try:
                one(target, random.Random(f"{target}-{seed}-{number}"), material, folder)
            except BaseException as error:
                failures.put((number, f"{type(error).__name__}: {str(error)[:1500]}"))
            finally:
                signal.alarm(0)
            shutil.rmtree(folder, ignore_errors=True)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if grown * 1024 > BYTES > before * 1024:
                failures.put((number, f"took {grown // 1024} MiB"))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def main() -> int:
    """Run many inputs of one target; the exit status says whether all ended well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        material = Material(Path(name))
    context = multiprocessing.get_context("fork")
    failures: Any = context.Queue()
    now = context.Value("q", chosen.first)
    begin, end, failed = chosen.first, chosen.first + chosen.count, 0
    started = time.monotonic()
    while begin < end:
        stop = min(begin + 500, end)  # a new process, so that its memory is that of few inputs
        arguments = (material, chosen.target, chosen.seed, begin, stop, now, failures)
        process = context.Process(target=_some, args=arguments)
        process.start()
        while process.is_alive() or not failures.empty():
            with contextlib.suppress(Exception):
                number, text = failures.get(timeout=0.5)
                failed += 1
                print(f"{chosen.target} {chosen.seed} {number}: {text}", flush=True)
        process.join()
        if process.exitcode:
            failed += 1
            print(f"{chosen.target} {chosen.seed} {now.value}: exit {process.exitcode}", flush=True)
            begin = now.value + 1
        else:
            begin = stop
    count = chosen.count * INPUTS.get(chosen.target, 1)
    print(
        f"{chosen.target}: {count} inputs, seed {chosen.seed}, {failed} failures, "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
