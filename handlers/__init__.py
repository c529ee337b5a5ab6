"""Part of Tricorn."""
