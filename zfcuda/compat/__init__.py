"""Other tools' interfaces and formats: :mod:`zfcuda.compat.captum`, :mod:`zfcuda.models.onnx`, each
with the extra of its name."""
