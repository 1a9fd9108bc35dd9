"""Settings: flag, then DTQ_* variable, then dtq.toml, then default."""
