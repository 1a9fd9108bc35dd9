"""Engines make the core's changes durable and find them again; they implement no queue."""
