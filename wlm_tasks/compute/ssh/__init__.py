"""Sites behind SSH: a shell on another host, and the site that runs jobs there as processes."""
