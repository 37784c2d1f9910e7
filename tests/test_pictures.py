"""The pictures in the documentation are what their script draws today."""

import importlib.util
import pathlib

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_the_pictures_of_concepts_are_up_to_date(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "concepts_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    kept = pictures.HERE
    monkeypatch.setattr(pictures, "HERE", tmp_path)
    pictures.main()
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text() for path in kept.iterdir()}
