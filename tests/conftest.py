from pathlib import Path

import pytest

from tests.bundles import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real bundle, made once; tests that change a bundle write their own."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny.mmguard")
