"""Sparse training: when and how much, what to drop and to grow, and the optimizer that does it."""
