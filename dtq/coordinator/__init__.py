"""The coordinator: one machine behind one lock, and the threads that do its I/O. Never sees a socket."""
