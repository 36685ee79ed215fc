"""Folders of photos: planned, transformed and journalled, whatever happens."""
