"""Colours: Lab, hints, and what a user edits for; arrays in, arrays out."""
