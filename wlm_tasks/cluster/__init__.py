"""Who is alive, by Serf's gossip: agents, their tags, and what they know of each other."""
