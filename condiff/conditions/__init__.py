"""Condition images, which a model follows: drawn from a photo, or by hand."""
