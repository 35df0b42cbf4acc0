"""Generated volumes in the same layout, for trying things out."""
