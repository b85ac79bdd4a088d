"""From what clients send to what engines take: input forms, text to token ids."""
