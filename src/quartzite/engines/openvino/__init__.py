"""The CPU engine: OpenVINO graphs written directly from the tensors of a folder."""
