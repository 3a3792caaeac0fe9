"""Pretraining of a speech encoder in the format of HuBERT."""
