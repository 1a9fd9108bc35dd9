"""Values where they lie: segments, which are append-only files, and how processes write to them and read from them.

Above `model.values`, which names values; below engines, client and worker, which all use it. What a value holds is not
known here, but for how pickles with their buffers lie in one (`layout`).
"""
