"""Who may come in, and how much of it; the gate that every request passes first."""
