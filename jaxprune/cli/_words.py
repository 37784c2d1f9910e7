"""The library's words as the command line says them: its remedies are options."""

import re

# In this order. What is on the left is Python, as the errors of `jaxprune` put it.
_OPTIONS = [
    (re.escape("use vmap for several sparsities"), "run it again for another one"),
    (re.escape("pass re.compile(...) for a regular expression"), "* stands for any text"),
    (r"where=jp\.any_leaf", "--where '*'"),
    (r"(?<=leave it out with )where=(?:, or by a rule)?", "--skip"),
    (r"(?<=leave the leaf out with )where=", "--skip"),
    (r"(?<=Choose others with )where=, for example --where '\*'", "--where, such as --where '*'"),
    (r"\bwhere=(?=[^\s.,;:)])", "--where "),
    (r"\bwhere=", "--where"),
    (r"use Channels\(\.\.\., axis=(\d+)\)", r"use --spec channels --axis \1"),
    (r"Block\(0\.5, \(16, 16\)\)", "--spec block=16x16"),
    (r"Block's shape is", "block=HxW takes"),
    (r"(?:write )?jp\.Unstructured\(0\.5\)(?:, for example)?", "--sparsity 0.5"),
    (r"expected 1 <= n <= m", "N:M needs 1 <= N <= M"),
    (r"\bNM\((\d+), (\d+)(?:, axis=[^)]*)?\)", r"--spec \1:\2"),
    (r"\bjp\.(?=[A-Z]|any_leaf|plan)", ""),  # no more, for a tensor may be called jp.w
]


def in_options(text: str) -> str:
    """A message or a table of the library, with options in the place of arguments.

    Examples:
        >>> in_options("leave it out with where=, or choose another axis.")
        'leave it out with --skip, or choose another axis.'
    """
    for pattern, option in _OPTIONS:
        text = re.sub(pattern, option, text)
    return text
