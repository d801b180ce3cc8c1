"""Who waits for whom: the work of a round, and the trainer that owns what a run needs."""
