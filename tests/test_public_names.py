"""Every public name is what it should be, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CHECK = """
import importlib, inspect, pkgutil, sys, types
package = importlib.import_module(sys.argv[1])
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
loaded = [importlib.import_module(n) for n in names if not n.endswith("__main__")]
checked = 0
for module in (package, *loaded):
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        where = module.__name__ + "." + name
        if isinstance(value, types.ModuleType):
            assert not value.__name__.startswith(package.__name__), where + " is a module"
        if inspect.isfunction(value) or inspect.isclass(value):
            home = sys.modules[value.__module__]
            assert getattr(home, value.__name__) is value, where
            assert callable(value), where
            checked += 1
print(checked)
"""


@pytest.mark.parametrize(
    ("package", "least"),
    [("steptrace_analyzer", 20), ("steptrace_schema", 1), ("steptrace_tracer", 5)],
)
def test_no_public_name_is_shadowed_by_a_submodule(package: str, least: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, package], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= least
