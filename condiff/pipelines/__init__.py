"""A user's picture in, finished pictures out."""
