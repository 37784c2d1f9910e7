"""Cuts whole units out of a model: what must go together is read from its program."""
