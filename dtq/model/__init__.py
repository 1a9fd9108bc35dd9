"""The vocabulary that all rooms share: tasks, options, messages, snapshots, and the service protocol."""
