"""Volumes in the CellMap layout: found, split, read onto a grid, and written."""
