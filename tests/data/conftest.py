import pytest

from tests.helpers.images import load


@pytest.fixture(scope="session")
def digits():
    return load()
