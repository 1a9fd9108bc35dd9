"""The terminal dashboard: snapshots to lines of text, keys to orders; only `app` knows a terminal."""
