"""How an image becomes an input of the model: what says it, and what does it."""

from mmguard.preprocessing.files import read_preprocessing
from mmguard.preprocessing.options import preprocessing_from
from mmguard.preprocessing.pixels import normalise, pixel_box, prepare

__all__ = ["normalise", "pixel_box", "prepare", "preprocessing_from", "read_preprocessing"]
