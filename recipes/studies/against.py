"""Is it VarCon that helps, or what it is made of? VarCon against other losses and its own controls, on one budget.

Question:  with the target detached VarCon has the gradient of twice a cross-entropy to a softened target, a label
           smoothing that follows the confidence. So: how much of its accuracy do plain 2 x NLL on the same batch
           centroids, the same with a fixed label smoothing, and VarCon with a fixed tau2 (eps = 0) reach?
Grid:      VarCon; these three; SupCon; SimCLR; cross-entropy without and with label smoothing 0.1
Budget:    all have the same encoder, epochs, batch, two views of every image, optimiser, learning rate and seeds. What
           differs: cross-entropy trains a linear classifier on the encoder's features in the place of the projection
           head; SimCLR sees no labels, and its temperature is 0.5, its authors' for CIFAR; SupCon's is that of the
           recipe. NLL has the weight 2 because VarCon's gradient is that large
Command:   python recipes/studies/against.py --recipe recipes/cifar10.py --data.train train.beton --data.val val.beton
Small:     python recipes/studies/against.py --small
Expected:  not measured yet
"""

from fastvarcon.studies import Point, Study, run_study

STUDY = Study(
    name="against",
    series=(Point("losses"),),
    points=(
        Point("VarCon", {"loss.name": "varcon"}),
        Point("VarCon, eps 0", {"loss.name": "varcon", "loss.eps": 0.0}),
        Point("2 x NLL", {"loss.name": "varcon", "loss.terms": "2nll"}),
        Point(
            "2 x NLL, label smoothing 0.1", {"loss.name": "varcon", "loss.terms": "2nll", "loss.label_smoothing": 0.1}
        ),
        Point("SupCon", {"loss.name": "supcon"}),
        Point("SimCLR", {"loss.name": "simclr", "loss.temperature": 0.5}),
        Point("cross-entropy", {"loss.name": "cross_entropy"}),
        Point("cross-entropy, label smoothing 0.1", {"loss.name": "cross_entropy", "loss.label_smoothing": 0.1}),
    ),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
