"""What the rooms talk about: tasks, options, messages, snapshots, and the service that all faces call."""
