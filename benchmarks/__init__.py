"""What jaxprune costs, beside its rivals: `python -m benchmarks`."""
