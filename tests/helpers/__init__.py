"""What several tests share: tiny models, corpora, commands."""
