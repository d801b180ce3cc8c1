"""What is asked: problems, their checkers, loaders and the bundled starter set."""
