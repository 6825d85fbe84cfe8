"""Past to model: time-true datasets, a split by time, fitting, judging, the leak check, and the bundle that comes of it."""
