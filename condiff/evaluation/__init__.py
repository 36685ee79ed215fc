"""Figures that compare results with true photos, and how they are shown."""
