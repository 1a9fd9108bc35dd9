"""The report: what the queue did in a time, measured from what the coordinator keeps, as one page.

Above the client's paging, below the command line. Only `gathering` asks the coordinator; the rest is pure.
"""
