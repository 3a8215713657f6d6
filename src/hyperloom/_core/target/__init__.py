"""What the core knows of a target network, and the same network in another framework."""
