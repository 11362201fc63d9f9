"""Backdoor attacks, by name."""

from collections.abc import Callable

from benchmarks.attacks.badnets import BadNets
from benchmarks.attacks.protocol import Attack, Images, Labels, Parameters, Role, Roles

AttackConstructor = Callable[[int, float], Attack]
"""Takes the target class and the share of the training images that is poisoned."""

ATTACKS: dict[str, AttackConstructor] = {"badnets": BadNets}

__all__ = ["ATTACKS", "Attack", "AttackConstructor", "BadNets", "Images", "Labels", "Parameters", "Role", "Roles"]
