"""What both backends share: checks, walks over a plan, views, the regulariser's look-ups."""
