"""Runs the code of the README with what `pip install jaxprune` brings, and nothing else."""

import pathlib
import re

import jaxprune

here = pathlib.Path(__file__).resolve().parent.parent
assert not pathlib.Path(jaxprune.__file__).is_relative_to(here / "jaxprune"), "not the wheel's"

blocks = re.findall(r"^```python\n(.*?)^```", (here / "README.md").read_text(), re.M | re.S)
code = [block for block in blocks if not block.startswith(">>>")]
assert code
names: dict[str, object] = {}
for block in code:
    exec(block, names)
print(f"the wheel of {jaxprune.__version__} runs the README's {len(code)} blocks")
