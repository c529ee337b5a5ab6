"""What a socketserver class is, and what it becomes."""
