"""``python -m steptrace_analyzer`` is the command ``steptrace``."""

from steptrace_analyzer.cli.app import main

if __name__ == "__main__":  # processes that a command starts import this module again
    main()
