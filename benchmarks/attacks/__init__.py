"""Backdoor attacks, by name."""

from pathlib import Path
from typing import Protocol

from benchmarks.attacks.adaptive_blend import AdaptiveBlend
from benchmarks.attacks.badnets import BadNets, BadNetsAllToAll
from benchmarks.attacks.blend import Blend, BlendedImage
from benchmarks.attacks.chessboard import Chessboard
from benchmarks.attacks.clean_label import CleanLabel
from benchmarks.attacks.guard_aware import GuardAware
from benchmarks.attacks.hook import Hooked, Learnt, TrainingHook, hook_of, learnt_path
from benchmarks.attacks.input_aware import InputAware
from benchmarks.attacks.none import NoAttack
from benchmarks.attacks.protocol import Attack, Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.sig import Sig
from benchmarks.attacks.source_specific import SourceSpecific
from benchmarks.attacks.wanet import WaNet


class AttackConstructor(Protocol):
    """Takes the target class and the share of the training images that is poisoned; both have defaults."""

    def __call__(self, target: int = ..., rate: float = ...) -> Attack:
        """A new attack."""
        ...


ATTACKS: dict[str, AttackConstructor] = {
    "adaptive_blend": AdaptiveBlend,
    "badnets": BadNets,
    "badnets_all_to_all": BadNetsAllToAll,
    "blend": Blend,
    "blended_image": BlendedImage,
    "chessboard": Chessboard,
    "clean_label": CleanLabel,
    "guard_aware": GuardAware,
    "input_aware": InputAware,
    "none": NoAttack,
    "sig": Sig,
    "source_specific": SourceSpecific,
    "wanet": WaNet,
}


def own_rate(name: str) -> float:
    """The poisoning rate that the attack has unless told, in [0, 1); its class says where it is from."""
    return ATTACKS[name]().rate


def load_attack(name: str, target: int, rate: float, model: Path) -> Attack:
    """The attack that an exported network was trained with, with what was learnt for its trigger.

    Args:
        name, target, rate: as in the network's record.
        model: its ONNX file.

    Raises:
        FileNotFoundError: the attack learns its trigger, and the file of that is not beside the model.
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
