"""Which augmentation? VarCon and SupCon under several, as the paper's study of augmentation strategies.

Question:  how much does the accuracy depend on the augmentation, and is VarCon more robust to it than SupCon?
Grid:      the paper's three (SimAugment, AutoAugment, stacked RandAugment), SimCLR's stronger one, RandAugment, and
           crop and flip alone as the floor
Command:   python recipes/studies/augmentation.py --recipe recipes/cifar10.py
               --data.train train.beton --data.val val.beton
Small:     python recipes/studies/augmentation.py --small
Expected:  the paper's text has VarCon robust across them; not measured yet. Digits suffer from all but crops: they must
           not be flipped
"""

from fastvarcon.studies import Point, Study, run_study

STUDY = Study(
    name="augmentation",
    series=(Point("VarCon", {"loss.name": "varcon"}), Point("SupCon", {"loss.name": "supcon"})),
    points=tuple(
        Point(name, {"data.policy": policy})
        for name, policy in (
            ("SimAugment", "simaugment"),
            ("AutoAugment", "autoaugment"),
            ("stacked RandAugment", "stacked-randaugment"),
            ("RandAugment", "randaugment"),
            ("SimCLR's", "simclr"),
            ("crop and flip", "crop-flip"),
        )
    ),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
