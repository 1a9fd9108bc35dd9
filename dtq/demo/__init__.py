"""The demo: a whole cluster on this machine for a minute, its load, and the measurements.

Above the daemon, whose commands it starts as processes, and below the command line, which shows what it says.
"""
