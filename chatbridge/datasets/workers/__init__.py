"""Loader workers that may crash or hang without ending the run.

supervisor      watches the workers, names the sample that killed one, starts them again
torch_workers   worker processes by torch's DataLoader; every private name of torch is used here only
plain_workers   worker processes by multiprocessing alone, where torch lacks such a name
progress_notes  the sample that each worker reads, in shared memory
time_limit      a limit on the time that reading one sample takes, inside the process that reads it
"""
