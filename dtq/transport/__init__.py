"""The wire: the standard library's manager server, hardened; the only importer of multiprocessing."""
