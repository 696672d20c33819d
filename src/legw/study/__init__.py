"""Studies: many runs planned, made one after another or side by side, and watched."""
