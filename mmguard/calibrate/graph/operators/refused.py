"""Why some operators are refused, for those that cannot be mended by adding a kernel."""

_RANDOM = "it draws at random, so that the same input has another answer each time"
_CONTROL = "it holds graphs of its own: control flow is not followed; export a model without it"
_RECURRENT = "recurrent networks are not guarded yet"
_INTEGERS = "it calculates in integers, which carry no gradient; give the model in QDQ form, or before quantisation"
_STRINGS = "strings carry no gradient; give the model from where its input is numbers"
_TRAINING = "it belongs to training; export the model for inference"
_TREES = "decision trees, vector machines and the like are no neural networks"
_BOXES = "it picks boxes: a detector's work, not a classifier's"
_LAYOUT = "it is of the layout that ONNX Runtime writes for one machine; give the model before it was optimised"

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
    """Why an operator, with its domain in front as in Node, has no kernel; empty where nothing forbids one."""
    by_prefix = (reason for prefix, reason in _BY_PREFIX.items() if operator.startswith(prefix))
    return _BY_OPERATOR.get(operator) or next(by_prefix, "")
