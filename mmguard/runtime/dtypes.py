"""The input dtypes that mmguard supports. This module imports nothing, so every other module can import it."""

INPUT_DTYPE_BY_ORT_TYPE = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
}
"""The supported input dtypes: a map from ONNX Runtime's name for the tensor type to NumPy's name for the dtype."""

INPUT_DTYPES = tuple(INPUT_DTYPE_BY_ORT_TYPE.values())
"""NumPy's names for the supported input dtypes."""
