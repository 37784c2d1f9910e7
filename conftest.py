"""Runs the code of README.md, docs/ and the docstrings as tests: a broken example is a bug."""

from doctest import ELLIPSIS

import jax
from sybil import Sybil
from sybil.evaluators.doctest import NUMBER
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

# NUMBER compares floats to the digits that are written; integers stay exact.
DOCTEST_OPTIONS = ELLIPSIS | NUMBER


# Programs are small and run once: XLA's optional passes would take longest. tests/conftest.py says
# which tests do not go without them.
jax.config.update("jax_disable_most_optimizations", True)
# Nobody looks up in a program which line of Python an operation came from.
jax.config.update("jax_traceback_in_locations_limit", 0)

# A document is read from top to bottom, so its blocks share their names, and run in that order.
documents = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=DOCTEST_OPTIONS), SkipParser()],
    patterns=["README.md", "docs/*.md"],
)

docstrings = Sybil(
    path="jaxprune",
    parsers=[DocTestParser(optionflags=DOCTEST_OPTIONS)],
    patterns=["*.py"],
)

pytest_collect_file = (documents + docstrings).pytest()
