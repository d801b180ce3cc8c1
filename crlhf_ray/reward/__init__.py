"""What it is worth: the correction rate of a program and its credit on tokens."""
