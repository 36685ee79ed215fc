"""The judge: figures that compare results with true photos, and how they are shown."""
