"""Redraws the pictures of pictures.md by running its code: `python docs/pictures.py`.

Each picture of the page shows the axes that the variable `ax` has at that point.
"""

import pathlib
import re

import matplotlib as mpl

HERE = pathlib.Path(__file__).parent

mpl.use("Agg")
# A fixed salt makes the files reproducible; text stays text, in the reader's own font.
mpl.rcParams.update({"svg.hashsalt": "jaxprune", "svg.fonttype": "none", "font.size": 9})


def main():
    page = (HERE / "pictures.md").read_text()
    names = {}
    for code, picture in re.findall(r"```python\n(.*?)```|!\[.*?\]\((.*?)\)", page, flags=re.S):
        if code:
            exec(code, names)
        else:
            figure = names["ax"].figure
            figure.set_size_inches(6.4, min(figure.get_figheight(), 3.4))
            figure.savefig(HERE / picture, bbox_inches="tight", metadata={"Date": None})
            print(picture)


if __name__ == "__main__":
    main()
