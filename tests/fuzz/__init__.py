"""A fuzzer for all that `legw` reads: see `tests.fuzz.cases` for what is thrown at what."""
