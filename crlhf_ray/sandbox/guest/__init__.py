"""What runs inside the jail. Only the standard library: the package itself is not visible there."""
