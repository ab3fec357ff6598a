"""How fast the workbench is, measured beside its peers: `python -m benchmarks`."""
