"""Studies: a grid of settings times seeds, each cell a training of a recipe with its scores, one table, one figure."""

from fastvarcon.studies.command_line import run_study
from fastvarcon.studies.grid import Axis, Point, Study

__all__ = ["Axis", "Point", "Study", "run_study"]
