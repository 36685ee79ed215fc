"""Condition images: what is drawn from a photo, or by hand, for a model to follow."""
