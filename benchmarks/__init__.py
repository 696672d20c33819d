"""Speed and memory against what one would write without legw: `make bench`."""
