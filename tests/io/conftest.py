"""A checkpoint in each format."""

import pytest

from tests.io.files import WRITERS, tensors_for


@pytest.fixture(params=list(WRITERS))
def checkpoint(request, tmp_path):
    tensors = tensors_for(request.param)
    path = tmp_path / f"in{request.param}"
    WRITERS[request.param](path, tensors)
    return path, tensors
