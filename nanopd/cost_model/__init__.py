"""What steps and transfers cost on this hardware."""
