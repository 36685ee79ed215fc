"""Folders of photos: planned, transformed and journalled, so that a killed run can go on."""
