"""Finding training faults in a trace, and what caused them."""
