"""Tasks of several agents that must talk to each other, compiled here: a riddle, a game of levers, and traffic."""
