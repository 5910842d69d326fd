"""Sites and how to run jobs on them."""
