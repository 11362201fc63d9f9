"""Backdoor attacks, by name."""

from pathlib import Path
from typing import Protocol

from benchmarks.attacks.adaptive_blend import AdaptiveBlend
from benchmarks.attacks.badnets import BadNets, BadNetsAllToAll
from benchmarks.attacks.blend import Blend, BlendedImage
from benchmarks.attacks.chessboard import Chessboard
from benchmarks.attacks.clean_label import CleanLabel
from benchmarks.attacks.distance_aware import DistanceAware
from benchmarks.attacks.guard_aware import GuardAware
from benchmarks.attacks.hook import Hooked, Learnt, TrainingHook, hook_of, learnt_path
from benchmarks.attacks.input_aware import InputAware
from benchmarks.attacks.none import NoAttack
from benchmarks.attacks.protocol import Attack, Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.sig import Sig
from benchmarks.attacks.source_specific import SourceSpecific
from benchmarks.attacks.wanet import WaNet


class AttackConstructor(Protocol):
    """Makes an attack from the target class and the share of training images to poison; both have defaults."""

    def __call__(self, target: int = ..., rate: float = ...) -> Attack:
        """Make a new attack."""
        ...


ATTACKS: dict[str, AttackConstructor] = {
    "adaptive_blend": AdaptiveBlend,
    "badnets": BadNets,
    "badnets_all_to_all": BadNetsAllToAll,
    "blend": Blend,
    "blended_image": BlendedImage,
    "chessboard": Chessboard,
    "clean_label": CleanLabel,
    "distance_aware": DistanceAware,
    "guard_aware": GuardAware,
    "input_aware": InputAware,
    "none": NoAttack,
    "sig": Sig,
    "source_specific": SourceSpecific,
    "wanet": WaNet,
}


def own_rate(name: str) -> float:
    """Return the attack's default poisoning rate, in [0, 1); its class says where it comes from."""
    return ATTACKS[name]().rate


def load_attack(name: str, target: int, rate: float, model: Path) -> Attack:
    """Load the attack that an exported network was trained with, including a learnt trigger.

    Args:
        name: name of the attack, as in the network's record.
        target: target class, as in the record.
        rate: poisoning rate, as in the record.
        model: ONNX file of the network.

    Returns:
        The attack.

    Raises:
        FileNotFoundError: the attack learns its trigger, but the trigger's file is not next to the model.
    """
    attack = ATTACKS[name](target, rate)
    if isinstance(attack, Learnt):
        attack.load(learnt_path(model))
    return attack


__all__ = [
    "ATTACKS",
    "Attack",
    "AttackConstructor",
    "BadNets",
    "Hooked",
    "Images",
    "Labels",
    "Learnt",
    "Parameters",
    "Role",
    "Roles",
    "TrainingHook",
    "hook_of",
    "learnt_path",
    "load_attack",
    "own_rate",
]
