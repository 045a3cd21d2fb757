"""How fast does VarCon converge? VarCon and SupCon over the length of the run, as the paper's Fig. 2 (against epochs).

Question:  what does a shorter run cost, and does VarCon reach a given accuracy in fewer epochs than SupCon?
Grid:      an eighth to all of the recipe's epochs, each a whole run with its own warm-up and cosine in proportion, not
           a checkpoint of a longer one
Command:   python recipes/studies/epochs.py --recipe recipes/cifar10.py --data.train train.beton --data.val val.beton
Small:     python recipes/studies/epochs.py --small
Expected:  the paper's abstract has VarCon converge in 200 epochs; not measured yet
"""

from fastvarcon.studies import Axis, Point, Study, run_study

FACTORS = (0.125, 0.25, 0.5, 1)

STUDY = Study(
    name="epochs",
    axis=Axis("train.epochs", "epochs", log=True),
    series=(Point("VarCon", {"loss.name": "varcon"}), Point("SupCon", {"loss.name": "supcon"})),
    points=tuple(
        Point(f"x{factor:g}", times={"train.epochs": factor, "train.warmup_epochs": factor}) for factor in FACTORS
    ),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
