import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cifar
from benchmarks.cifar import ARCHIVES, calibration_split, load
from tests.benchmarks.synthetic import images_and_labels


def write_archive(folder: Path, name: str) -> dict[str, tuple[cifar.Images, cifar.Labels]]:
    """A small archive in the form of the real one; its parts."""
    form, parts = ARCHIVES[name], {}
    with tarfile.open(folder / form.file, "w:gz") as archive:
        for seed, part in enumerate((*form.train, *form.test)):
            x, y = parts[part] = images_and_labels(6, seed)
            coarse = np.full((6, form.labels - 1), 99, np.uint8)
            rows = np.hstack([coarse, y[:, None].astype(np.uint8), x.transpose(0, 3, 1, 2).reshape(6, -1)])
            member = tarfile.TarInfo(f"folder/{part}")
            member.size = rows.size
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    return parts


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_authors_archive_is_read_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "CACHE", tmp_path / "cache")
    parts = write_archive(tmp_path, name)
    for _ in range(2):
        data = load(name, tmp_path)
        for x, y, names in (
            (data.x_train, data.y_train, ARCHIVES[name].train),
            (data.x_test, data.y_test, ARCHIVES[name].test),
        ):
            assert np.array_equal(x, np.concatenate([parts[part][0] for part in names]))
            assert np.array_equal(y, np.concatenate([parts[part][1] for part in names]))
            assert x.dtype == np.uint8
            assert y.dtype == np.int64
        (tmp_path / ARCHIVES[name].file).unlink(missing_ok=True)


def test_a_folder_without_the_data_set_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "CACHE", tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary\.tar\.gz"):
        load("cifar10", tmp_path)
    assert not list((tmp_path / "cache").iterdir())


def test_as_many_of_each_class_are_drawn_and_the_rest_is_left() -> None:
    _, labels = images_and_labels(1000, 0)
    chosen, unseen = calibration_split(labels, 20, 3)
    assert np.bincount(labels[chosen]).tolist() == [20] * 10
    assert sorted([*chosen, *unseen]) == list(range(1000))
    assert not np.array_equal(chosen, calibration_split(labels, 20, 4)[0])
    with pytest.raises(ValueError, match="smallest class"):
        calibration_split(labels, 900)
