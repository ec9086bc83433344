"""Print the lower bound of every dependency in pyproject.toml as an exact pin, one a line.

`packaging` reads the requirements; `.ci/oldest` installs it and hands the pins to pip.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

# Tools that read the source and take no part in the tests: their oldest versions say nothing.
NOT_TESTED = frozenset({"mypy", "ruff", "import-linter", "codespell", "pre-commit"})
EXTRAS = ("tensorflow", "view", "checkpoint", "dev")


def pin(requirement: Requirement) -> str:
    """Return the requirement with its lower bound as the only version.

    Raises
    ------
    SystemExit
        If it has none.
    """
    lower = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    if len(lower) != 1:
        sys.exit(f"pyproject.toml: '{requirement}' has no lower bound (>=), add one")
    requirement.specifier = SpecifierSet(f"=={lower[0]}")
    return str(requirement)


def main() -> None:
    """Print the pins, and refuse another Python than the oldest that is supported."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    oldest = next(iter(SpecifierSet(project["requires-python"]))).version
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != oldest:
        sys.exit(f"this is Python {running}, the oldest supported is {oldest}; set PYTHON to it")
    lines = list(project["dependencies"])
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if requirement.name not in NOT_TESTED | {project["name"]}:
            print(pin(requirement))


if __name__ == "__main__":
    main()
