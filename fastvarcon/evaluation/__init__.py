"""How good a trained encoder is. Nothing here imports the trainer."""
