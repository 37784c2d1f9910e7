"""Exact, shardable, honest pruning for JAX."""

import lazy_loader as _lazy

# `__init__.pyi` lists the public names. Each is imported when it is first asked for, so that the
# command line prints its help without waiting for JAX.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

__version__ = "0.1.0"
