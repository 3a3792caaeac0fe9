"""From parallel text to a spoken corpus, by a speech synthesiser."""
