"""Storage of values: segments, which are append-only files, and how processes write to them and read from them.

Above `model.values`, which names values; below engines, client and worker, which all use it. The content of a value is
not known here, except for the layout of pickles with their buffers (`layout`).
"""
