"""Logs and trace ids; knows settings, not the parts that log."""
