"""Documents agree with the code."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from steptrace_schema.version import FORMAT_VERSION

ROOT = Path(__file__).parents[1]

MOST_LINES = 350
"""Of a module, unless CONTRIBUTING.md says why it is longer."""


def _module(path: str) -> Any:
    found = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_tables_of_the_specification_are_those_of_the_code() -> None:
    module = _module("docs/render.py")
    text = (ROOT / "schema" / "SPEC.md").read_text(encoding="utf-8")
    assert module.render(text) == text
    assert all(table in text for table in module.TABLES.values())


def test_the_page_on_capture_is_the_one_that_the_tests_give() -> None:
    from capture_matrix import COLUMNS, ROWS

    page = _module("docs/render_capture.py")
    assert page.PAGE.read_text(encoding="utf-8") == page.render()
    tests = ROOT / "tests" / "tracer"
    for row in ROWS:
        file, _, function = row.test.partition("::")
        assert f"\ndef {function}(" in (tests / file).read_text(encoding="utf-8"), row
        assert set(row.lacks) <= set(COLUMNS), row


def test_the_page_on_diagnosis_says_what_the_rules_say() -> None:
    page = _module("docs/render_diagnosis.py")
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.render(text) == text
    for name, rule in page.BUILT_IN.items():
        assert f"\n### {name}\n" in text
        assert {"Unit", "Needs"} <= set(re.findall(r"^    (\w+)$", rule.__doc__, re.MULTILINE)), (
            name
        )


def test_every_rule_has_the_picture_that_its_script_draws() -> None:
    module = _module("docs/render_diagnosis_pictures.py")
    rules = _module("docs/render_diagnosis.py").BUILT_IN
    said = json.loads(module.SAID.read_text(encoding="utf-8"))
    assert set(said) == set(module.PICTURES) == set(rules)
    for rule, picture in module.PICTURES.items():
        parts = said[rule]["program"], said[rule]["mutation"], said[rule]["alt"]
        assert parts == (picture.program, picture.mutation, picture.alt), rule
        with Image.open(module.FOLDER / f"{rule}.png") as image:
            assert image.width <= 1000, rule


def test_the_specification_has_the_version_that_is_written() -> None:
    text = (ROOT / "schema" / "SPEC.md").read_text(encoding="utf-8")
    assert f"Version **{FORMAT_VERSION}**" in text
    assert f"## {FORMAT_VERSION} " in (ROOT / "schema" / "CHANGELOG.md").read_text()


def test_the_picture_of_a_step_is_the_one_that_its_script_draws() -> None:
    module = _module("docs/render_step.py")
    assert module.PICTURE.read_text(encoding="utf-8") == module.render()


def test_the_gallery_is_the_one_that_its_script_writes_and_has_every_picture() -> None:
    module = _module("docs/render_gallery.py")
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.render()
    pictures = re.findall(r"\((images/[^)]+)\)", text)
    views = (*module.VIEWS, *module.PHOTOS, *module.TWO_RUNS)
    assert len(pictures) == len(views) + 1
    assert all((ROOT / "docs" / name).is_file() for name in pictures)
    used = {f"gallery/{path.name}" for path in module.FOLDER.iterdir()}
    assert used == {f"gallery/{view.picture}" for view in views}


def test_the_picture_of_a_step_names_rooms_that_exist() -> None:
    rooms = {
        room.rstrip("/")
        for box in _module("docs/render_step.py").BOXES
        for room in box.rooms.split()
    }
    packages = [ROOT / name / f"steptrace_{name}" for name in ("schema", "tracer", "analyzer")]
    assert rooms
    assert {room for room in rooms if not any((p / room).is_dir() for p in packages)} == set()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_claim_about_speed_and_size_points_at_a_row_that_was_measured() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    claims = text.partition("## Claims\n")[2].partition("\n## ")[0]
    pointers = [_cells(line)[-1] for line in claims.splitlines() if line.startswith("| ")][2:]
    assert len(pointers) > 10
    for letter, row in (pointer.split(" ", 1) for line in pointers for pointer in line.split(", ")):
        begin = text.index(f"\nTable {letter}. ")
        table = re.search(r"(?:^\|.*\n)+", text[begin:], re.MULTILINE)
        assert table is not None, letter
        header, _, *rows = table.group(0).splitlines()
        assert rows, f"table {letter} is empty"
        assert row in [*_cells(header), *(_cells(line)[0] for line in rows)], f"{letter} {row}"


def test_every_long_module_has_a_sentence_that_says_why_it_is_one_thing() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Long modules\n")[2].partition("\n## ")[0]
    rows = [_cells(line) for line in table.splitlines() if line.startswith("| `")]
    explained = {module for module, why in rows if why}
    modules = [*ROOT.glob("*/steptrace_*/**/*.py")]
    assert len(modules) > 100
    long = {
        f"`{module.relative_to(ROOT).as_posix()}`"
        for module in modules
        if len(module.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert long == explained


def test_the_json_schemas_are_those_of_the_results() -> None:
    module = _module("docs/render_json.py")
    written = {
        file.name: json.loads(file.read_text(encoding="utf-8")) for file in module.FOLDER.iterdir()
    }
    made = {name: json.loads(text) for name, text in module.render().items()}
    assert {n: _meaning(s) for n, s in written.items()} == {n: _meaning(s) for n, s in made.items()}
    if all(schema["$comment"] == made[name]["$comment"] for name, schema in written.items()):
        assert written == made


def _meaning(schema: Any) -> Any:
    """Return what a schema demands, which versions of pydantic write in several ways."""
    if isinstance(schema, list):
        return [_meaning(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = {"description", "title", "propertyNames", "$comment"}
    left_out |= {"enum"} if "const" in schema else set()
    left_out |= {"additionalProperties"} if schema.get("additionalProperties") is True else set()
    # The names of properties are not keywords of a schema.
    return {
        name: {key: _meaning(value) for key, value in part.items()}
        if name in ("properties", "$defs")
        else _meaning(part)
        for name, part in schema.items()
        if name not in left_out
    }


def test_the_design_names_every_room_of_the_packages() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for package in sorted(ROOT.glob("*/steptrace_*")):
        folder = package.relative_to(ROOT).as_posix()
        table = text.partition(f"| `{folder}/` | |\n")[2].partition("\n\n")[0]
        named = {_cells(line)[0] for line in table.splitlines()[1:]}
        assert named == {f"`{room.parent.name}/`" for room in package.glob("*/__init__.py")}, folder
