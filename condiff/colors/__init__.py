"""Colours: Lab, hints, and what a user wishes for; arrays in, arrays out."""
