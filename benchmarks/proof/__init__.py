"""Every way to train a sparse network, on real data: `python -m benchmarks.proof --model mlp`."""
