"""What the tests of all folders share: targets, the table of cases, and comparisons."""
