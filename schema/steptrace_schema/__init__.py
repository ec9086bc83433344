"""The steptrace format: names, attributes, journal, store, statistics and validation."""
