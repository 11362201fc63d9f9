"""Operators that mmguard refuses because they need more than a kernel, with the reason for each operator."""

_RANDOM = "the operator is random, so the model may give different answers to the same input"
_CONTROL = "mmguard does not support control flow; export the model without control flow"
_RECURRENT = "mmguard does not support recurrent networks yet"
_INTEGERS = (
    "the operator computes with integers, which have no gradient; provide the model in QDQ format or unquantised"
)
_STRINGS = "strings have no gradient; provide only the part of the model whose inputs are numbers"
_TRAINING = "the operator is for training only; export the model for inference"
_TREES = "decision trees, support vector machines and similar models are not neural networks"
_BOXES = "the operator selects boxes for object detection, but mmguard guards only classifiers"
_LAYOUT = (
    "ONNX Runtime adds the operator when it optimises a model for a particular machine; provide the model without this "
    "optimisation"
)

_REASONS = {
    _RANDOM: "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
    _CONTROL: "If Loop Scan SequenceMap ai.onnx.preview.FlexAttention",
    _RECURRENT: "GRU LSTM RNN com.microsoft.AttnLSTM",
    _INTEGERS: "QLinearConv QLinearMatMul com.microsoft.QGemm com.microsoft.QAttention com.microsoft.QMoE "
    "com.microsoft.MatMulIntegerToFloat com.microsoft.DynamicQuantizeMatMul com.microsoft.DynamicQuantizeLSTM "
    "com.microsoft.QEmbedLayerNormalization com.microsoft.MatMulNBits com.microsoft.MatMulInteger16 "
    "com.microsoft.QOrderedMatMul com.microsoft.QuantizeWithOrder com.microsoft.DequantizeWithOrder",
    _STRINGS: "ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer "
    "ai.onnx.ml.CategoryMapper ai.onnx.ml.DictVectorizer ai.onnx.ml.CastMap ai.onnx.ml.LabelEncoder",
    _TRAINING: "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss ai.onnx.preview.training.Adagrad "
    "ai.onnx.preview.training.Adam ai.onnx.preview.training.Gradient ai.onnx.preview.training.Momentum",
    _TREES: "ai.onnx.ml.TreeEnsemble ai.onnx.ml.TreeEnsembleClassifier ai.onnx.ml.TreeEnsembleRegressor "
    "ai.onnx.ml.SVMClassifier ai.onnx.ml.SVMRegressor ai.onnx.ml.LinearClassifier",
    _BOXES: "NonMaxSuppression RoiAlign MaxRoiPool",
}

_BY_OPERATOR = {name: reason for reason, names in _REASONS.items() for name in names.split()}

_BY_PREFIX = {"com.microsoft.QLinear": _INTEGERS, "com.microsoft.nchwc.": _LAYOUT}


def reason_to_refuse(operator: str) -> str:
    """Return why mmguard refuses an operator, even if a kernel is registered for it.

    Args:
        operator: name of the operator, preceded by the domain unless it is ONNX's own domain.

    Returns:
        The reason; an empty string if a registered kernel is enough for mmguard to run the operator.

    Example:
        >>> reason_to_refuse("LSTM")
        'mmguard does not support recurrent networks yet'
        >>> reason_to_refuse("Conv")
        ''
    """
    by_prefix = (reason for prefix, reason in _BY_PREFIX.items() if operator.startswith(prefix))
    return _BY_OPERATOR.get(operator) or next(by_prefix, "")
