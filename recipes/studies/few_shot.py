"""Few labels: how good are the features when only some images of a class have a label?

Question:  is a VarCon encoder better than one of cross-entropy, SupCon or SimCLR, with 1 to 100 labelled images a
           class?
Grid:      four losses; `fastvarcon eval few-shot` on each encoder, which all get the same ten draws of images
Command:   python recipes/studies/few_shot.py --recipe recipes/cifar10.py --data.train train.beton --data.val val.beton
Small:     python recipes/studies/few_shot.py --small
Expected:  the paper's abstract has VarCon above the supervised baseline; not measured yet. The encoders have seen all
           labels of the training images: this asks how far a few of them tell the classes apart in the features
"""

from fastvarcon.studies import Point, Study, run_study

STUDY = Study(
    name="few_shot",
    points=(
        Point("VarCon", {"loss.name": "varcon"}),
        Point("SupCon", {"loss.name": "supcon"}),
        Point("cross-entropy", {"loss.name": "cross_entropy"}),
        Point("SimCLR", {"loss.name": "simclr", "loss.temperature": 0.5}),
    ),
    series=(Point("losses"),),
    shots=(1, 2, 5, 10, 20, 50, 100),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
