from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks import cifar, train
from benchmarks.suspect import CleanSet, Suspect
from benchmarks.training.networks import NETWORKS, resnet
from tests.benchmarks.synthetic import images_and_labels, synthetic_cifar


@pytest.fixture(scope="session")
def suspect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suspect]:
    """A ResNet of eight layers with a BadNets backdoor to class 0, trained on the synthetic images."""
    folder: Path = tmp_path_factory.mktemp("suspect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "resnet8", partial(resnet, 8))
        patch.setattr(cifar, "load", lambda name, folder: synthetic_cifar(2000))
        recipe = train.Recipe(
            network="resnet8", rate=0.2, epochs=8, precision="float32", batch_size=64, peak_learning_rate=0.05
        )
        train.run(recipe, folder, None, resume=False)
        yield Suspect.load(recipe.name, folder)


@pytest.fixture(scope="session")
def clean() -> CleanSet:
    """Ten images a class that the suspect was not trained on."""
    return CleanSet(*images_and_labels(100, 3))
