"""From an experiment to its steps, its rows and its chains."""
