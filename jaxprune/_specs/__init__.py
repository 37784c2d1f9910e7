"""What shape sparsity takes: one file a family, all of them complete by `protocol`."""
