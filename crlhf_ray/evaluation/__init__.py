"""Is it better: running programs against their tests, and pass@k."""
