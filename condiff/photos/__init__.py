"""Reads photo files of many formats and writes them with their metadata."""
