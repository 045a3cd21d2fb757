"""From bytes on disk to a batch of views."""
