"""One generator for many tasks that are said in words; tasks with new combinations come for free.

A task is a set of digits, `"two or five or nine"`: is an image one of them? The generator reads
the sentence and makes the classifier.
"""
