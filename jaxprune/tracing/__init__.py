"""Reads from a function's jaxpr where and how each parameter is used; computes nothing."""
