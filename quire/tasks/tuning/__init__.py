"""Supervised tasks: rows of a known schema become examples, examples batches, batches loss terms, and answers figures. One file a task."""
