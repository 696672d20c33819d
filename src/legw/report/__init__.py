"""Reports: a folder of runs as one page, as Markdown, or as pictures. Needs no torch."""
