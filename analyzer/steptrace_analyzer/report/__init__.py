"""One HTML page about a trace that opens offline."""

from steptrace_analyzer.report.write import write_report as write_report
