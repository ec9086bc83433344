"""``python -m steptrace_analyzer`` is the command ``steptrace``."""

from steptrace_analyzer.cli.app import main

main()
