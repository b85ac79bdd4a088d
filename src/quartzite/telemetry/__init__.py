"""Logs, trace ids, metrics and spans; knows settings, not the parts that log."""
