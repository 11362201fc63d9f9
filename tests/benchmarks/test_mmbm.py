import torch

from benchmarks.defences.mmbm import MmBm, norm
from benchmarks.suspect import CleanSet, Suspect
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.sites import find_activations


def test_the_bounds_shrink_and_the_decisions_on_d_stay(suspect: Suspect, clean: CleanSet) -> None:
    classifier = read_classifier(suspect.path)
    logits = classifier.output.logits
    graph = DifferentiableGraph(classifier.model, logits)
    axes = {each.value: each.axis for each in find_activations(classifier.model, logits)}
    x = torch.from_numpy(suspect.exported.inputs(clean.x))
    none, _ = MmBm(epochs=0).learn(graph, axes, x, torch.Generator())
    few, agreement = MmBm(epochs=5).learn(graph, axes, x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = graph(x, few).argmax(1) == graph(x).argmax(1)
    assert agreement == float(same.float().mean()) >= 0.95
    assert norm(few) < norm(none)
    assert all(bool((bound >= 0).all()) for bound in few.values())


def test_the_norm_is_summed_over_layers() -> None:
    assert norm({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[2.0]])}).item() == 7


def test_without_training_nothing_is_clipped_on_d(suspect: Suspect, clean: CleanSet) -> None:
    mitigated = MmBm(epochs=0).mitigate(suspect, clean, 0)
    assert (mitigated.labels(clean.x) == suspect.exported.labels(clean.x)).all()
