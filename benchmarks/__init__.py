"""Speed, next to others; see `__main__`."""
