"""Run folders: the files of a run, and files that processes share. Needs no torch."""
