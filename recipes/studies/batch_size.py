"""Does VarCon need large batches? VarCon and SupCon over the batch size, as the paper's Fig. 2.

Question:  how much is lost with smaller batches, whose centroids are means of fewer rows, and does SupCon lose more?
Grid:      a quarter to twice the batch of the recipe, the learning rate in proportion (Goyal et al. 2017), the same
           epochs
Command:   python recipes/studies/batch_size.py --recipe recipes/cifar10.py
               --data.train train.beton --data.val val.beton
Small:     python recipes/studies/batch_size.py --small
Expected:  the paper's abstract has VarCon depend less on the batch than SupCon; not measured yet
"""

from fastvarcon.studies import Axis, Point, Study, run_study

FACTORS = (0.25, 0.5, 1, 2)

STUDY = Study(
    name="batch_size",
    axis=Axis("train.global_batch", "images in a batch", log=True),
    series=(Point("VarCon", {"loss.name": "varcon"}), Point("SupCon", {"loss.name": "supcon"})),
    points=tuple(Point(f"x{factor:g}", times={"train.global_batch": factor, "train.lr": factor}) for factor in FACTORS),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
