"""How soon ``steptrace view`` shows something, and how soon it shows another step.

Run ``python benchmarks/viewing.py TRACE [TRACE]`` with Chromium and the package playwright
installed. Milliseconds of the browser are from its own clock; processor time is of the server.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import chromium, tab

_IDLE = "!!(window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle)"
_STEPS = """async ([first, last]) => {
  const slider = Bokeh.documents[0].get_model_by_name("step"), times = [];
  for (let step = first; step < last; step++) {
    const begin = performance.now(), before = slider.title;
    slider.value = step;
    while (slider.title === before) await new Promise(done => setTimeout(done, 1));
    await new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
    times.push(performance.now() - begin);
  }
  return times;
}"""
_MOVES = (20, 60)


def main(traces: list[str]) -> None:
    command = [sys.executable, "-m", "steptrace_analyzer", "view", *traces, "--no-browser"]
    begin = time.perf_counter()
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        chromium() as browser,
        tab(browser) as shown,
    ):
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            started = time.perf_counter() - begin
            server = psutil.Process(process.pid)
            used = begun = cpu(server)
            begin = time.perf_counter()
            shown.page.goto(address)
            while not shown.page.evaluate(_IDLE):
                time.sleep(0.005)
            drawn = time.perf_counter() - begin
            first = cpu(server) - used
            shown.page.wait_for_timeout(5000)  # the findings are looked for meanwhile
            shown.page.evaluate(_STEPS, [0, 10])
            used = cpu(server)
            times = shown.page.evaluate(_STEPS, list(_MOVES))
            each = (cpu(server) - used) / len(times)
        finally:
            process.terminate()
    print("| | wall | processor time of the server |")
    print("| --- | --- | --- |")
    print(f"| from the command to the address | {started:.2f} s | {begun:.2f} s |")
    print(f"| from the address to the first picture | {drawn:.2f} s | {first:.2f} s |")
    middle, slow = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    print(f"| a step of the slider, median | {middle:.0f} ms | {1000 * each:.0f} ms |")
    print(f"| a step of the slider, 95 % below | {slow:.0f} ms | |")


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main(sys.argv[1:])
