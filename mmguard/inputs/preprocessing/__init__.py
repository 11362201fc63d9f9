"""How an image becomes an input of the model: what says it, and what does it."""

from mmguard.inputs.preprocessing.files import read_preprocessing
from mmguard.inputs.preprocessing.options import preprocessing_from
from mmguard.inputs.preprocessing.pixels import normalise, pixel_box, prepare

__all__ = ["normalise", "pixel_box", "prepare", "preprocessing_from", "read_preprocessing"]
