"""From recordings to text."""
