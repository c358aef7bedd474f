import pytest


@pytest.fixture(scope="package")
def world(toy):
    """Folder of a world of 40 images, seed 0."""
    return toy.world
