"""Which temperature? VarCon and SupCon over tau1, as the paper's Fig. 2 (accuracy against temperature).

Question:  how much does the linear and the kNN accuracy depend on the temperature of the class posterior, and is VarCon
           less sensitive to it than SupCon is to its own?
Grid:      0.05 to 0.5 for both losses; eps stays as it is (0.02), so tau2 keeps its distance from tau1
Command:   python recipes/studies/temperature.py --recipe recipes/cifar10.py
               --data.train train.beton --data.val val.beton
Small:     python recipes/studies/temperature.py --small
Expected:  the best near 0.1, where the paper stands; not measured yet
"""

from fastvarcon.studies import Axis, Point, Study, run_study

VALUES = (0.05, 0.07, 0.1, 0.2, 0.5)

STUDY = Study(
    name="temperature",
    axis=Axis("loss.tau1", "temperature", log=True),
    series=(Point("VarCon", {"loss.name": "varcon"}), Point("SupCon", {"loss.name": "supcon"})),
    points=tuple(Point(f"{value:g}", {"loss.tau1": value, "loss.temperature": value}) for value in VALUES),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
