"""Workers: one supervisor on each machine, one child process for each slot."""
