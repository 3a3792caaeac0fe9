"""Scores, significance, sensitivity, plots."""
