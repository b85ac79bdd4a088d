"""Engines turn micro-batches of token ids into pooled vectors; each is loaded by name and knows no other."""
