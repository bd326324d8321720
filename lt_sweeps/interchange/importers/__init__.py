"""Importers that read other code's results as levels of ours."""
