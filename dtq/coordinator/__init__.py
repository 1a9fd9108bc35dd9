"""The coordinator: one machine behind one lock, and the threads that carry for it. Never sees a socket."""
