"""How wide should the adaptive temperature be? VarCon over eps, as the ablation in the paper's Fig. 3.

Question:  does adapting tau2 within [tau1 - eps, tau1 + eps] help against a fixed one, eps = 0?
Grid:      eps 0 to 0.08 at tau1 = 0.1. At eps = 0 VarCon has the gradient of twice a cross-entropy to the batch's
           centroids with a fixed, very small label smoothing
Command:   python recipes/studies/eps.py --recipe recipes/cifar10.py --data.train train.beton --data.val val.beton
Small:     python recipes/studies/eps.py --small
Expected:  differences within the spread of seeds for ten classes, where the target hardly moves; not measured yet
"""

from fastvarcon.studies import Axis, Point, Study, run_study

VALUES = (0.0, 0.01, 0.02, 0.04, 0.06, 0.08)

STUDY = Study(
    name="eps",
    axis=Axis("loss.eps", "eps, half-width of the adaptive temperature (0 = fixed)"),
    series=(Point("VarCon", {"loss.name": "varcon", "loss.tau1": 0.1}),),
    points=tuple(Point(f"{value:g}", {"loss.eps": value}) for value in VALUES),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
