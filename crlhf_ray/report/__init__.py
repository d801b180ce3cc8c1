"""Figures, tables and the run report."""
