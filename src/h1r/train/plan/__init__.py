"""What a run needs of each card, and how long it takes, before it is started."""
