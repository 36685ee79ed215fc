"""Colours: Lab, hints, and a user's edits; arrays in, arrays out."""
