"""The command ``steptrace``: one module per command; each imports what it needs when it runs."""
