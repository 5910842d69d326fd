"""The plain data of the package: experiments, parameters, paths, steps and their states."""
