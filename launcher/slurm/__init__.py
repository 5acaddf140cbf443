"""Jobs of SLURM: the batch script as a pure function, and the command that submits it."""
