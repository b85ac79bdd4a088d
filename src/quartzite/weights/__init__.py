"""Tensors of a model folder, mapped into memory and never executed; knows nothing of what they mean."""
