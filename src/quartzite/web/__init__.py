"""The HTTP face: the only folder that knows wire names, status codes and headers."""
