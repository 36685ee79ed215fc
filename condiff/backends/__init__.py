"""The engines that run a model: torch on any device, ONNX Runtime or OpenVINO on a processor."""
