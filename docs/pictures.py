"""Remakes the pictures of pictures.md by running its code: `python docs/pictures.py`.

Wherever the page shows a picture, `ax` is what it shows.
"""

import pathlib
import re

import matplotlib as mpl

HERE = pathlib.Path(__file__).parent

mpl.use("Agg")
# The same code makes the same file; text stays text, set in the reader's own font.
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
