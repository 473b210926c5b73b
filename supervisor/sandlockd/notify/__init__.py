"""The notification loop: receive, dispatch by number, answer exactly once."""
