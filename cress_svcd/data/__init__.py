"""Audio, datasets and caches; ``corpus`` prepares data, ``synthesis`` makes it."""
