"""Recipes: stages of commands from data to scores."""
