"""The measurement suite: every figure of a machine by one command, in parts that fit short slots of a GPU."""
