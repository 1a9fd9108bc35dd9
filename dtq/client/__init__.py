"""Clients: functions and their results, over the service."""
