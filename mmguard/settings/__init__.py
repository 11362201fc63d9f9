"""The settings of a calibration, and presets for these settings."""

from mmguard.settings.presets import PRESETS, base_preset, preset
from mmguard.settings.settings import Null, Objective, Penalty, Settings

__all__ = ["PRESETS", "Null", "Objective", "Penalty", "Settings", "base_preset", "preset"]
