"""What a comparison found as JUnit XML, which every CI system shows as tests."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from steptrace_analyzer.text import printable

if TYPE_CHECKING:
    from steptrace_analyzer.differences.result import DiffResult, TensorDiff


def junit_text(result: DiffResult, *, fails: bool) -> str:
    """Return a test suite: one test for the verdict, and one for each tensor that was compared.

    Parameters
    ----------
    result
        What :func:`steptrace_analyzer.diff` found.
    fails
        Whether the verdict is a failure to whoever asked. The tests of tensors that differ fail
        with it. A verdict that is inconclusive is an error.

    Returns
    -------
    str
        XML, as Jenkins, GitLab and pytest have it.

    Examples
    --------
    >>> junit_text(diff("a.zarr", "b.zarr"), fails=True)  # doctest: +SKIP
    """
    cases = [_verdict(result, fails=fails), *(_tensor(t, fails=fails) for t in result.tensors)]
    cases += [_skipped(entry.name, entry.found) for entry in result.mismatches]
    suite = ElementTree.Element(
        "testsuite",
        {
            "name": printable(f"steptrace diff {result.a} {result.b}"),
            "tests": str(len(cases)),
            "failures": str(sum(case.find("failure") is not None for case in cases)),
            "errors": str(sum(case.find("error") is not None for case in cases)),
            "skipped": str(sum(case.find("skipped") is not None for case in cases)),
        },
    )
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    return text + "\n"


def _case(kind: str, name: str) -> ElementTree.Element:
    return ElementTree.Element(
        "testcase", {"classname": f"steptrace.{kind}", "name": printable(name), "time": "0"}
    )


def _said(case: ElementTree.Element, tag: str, message: str, text: str = "") -> None:
    child = ElementTree.SubElement(case, tag, {"message": printable(message)})
    child.text = printable(text) or None


def _verdict(result: DiffResult, *, fails: bool) -> ElementTree.Element:
    case = _case("verdict", "verdict")
    found = result.divergence
    lines = [str(result.coverage)]
    if found is not None:
        lines += [t for t in (found.origin, *found.recognised, *found.not_compared) if t]
    if result.noise is not None:
        lines.append(str(result.noise))
    if result.verdict == "inconclusive":
        _said(case, "error", str(result), "\n".join(lines))
    elif fails:
        _said(case, "failure", str(result), "\n".join(lines))
    else:
        ElementTree.SubElement(case, "system-out").text = printable(f"{result}\n" + lines[0])
    return case


def _tensor(tensor: TensorDiff, *, fails: bool) -> ElementTree.Element:
    case = _case(tensor.kind, tensor.path)
    if tensor.differs:
        apart = "" if tensor.max_abs is None else f", by up to {tensor.max_abs:.3g}"
        since = "" if tensor.first_step is None else f", first at step {tensor.first_step}"
        message = f"{tensor.differing} of {tensor.elements} elements differ{apart}{since}"
        if fails:
            _said(case, "failure", message)
        else:
            ElementTree.SubElement(case, "system-out").text = message
    return case


def _skipped(name: str, found: str) -> ElementTree.Element:
    case = _case(name.partition("/")[0], name.partition("/")[2] or "steps")
    _said(case, "skipped", found)
    return case
