"""Run folders: what a run leaves on disk, and the files that processes share. Needs no torch."""
