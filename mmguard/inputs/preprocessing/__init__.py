"""Preprocessing of images: read the settings from files and options, and apply them."""

from mmguard.inputs.preprocessing.files import read_preprocessing
from mmguard.inputs.preprocessing.options import PreprocessingOptions
from mmguard.inputs.preprocessing.pixels import normalise, pixel_box, prepare

__all__ = ["PreprocessingOptions", "normalise", "pixel_box", "prepare", "read_preprocessing"]
