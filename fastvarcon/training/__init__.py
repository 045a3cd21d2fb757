"""The trainer: one linear loop under Accelerate, and what it needs around it."""
