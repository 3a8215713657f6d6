"""What a function of the framework does when it meets a weight object."""
