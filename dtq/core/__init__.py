"""The pure core: decides everything, knows no clock, thread, socket or file."""
