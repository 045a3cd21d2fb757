"""Where may the gradient flow? VarCon with centroids and target attached or detached.

Question:  the reference code detaches the centroids and lets the gradient flow through tau2 into the target; the
           paper's text says neither. Does it matter?
Grid:      the four combinations, the reference code's first
Command:   python recipes/studies/detach.py --recipe recipes/cifar10.py --data.train train.beton --data.val val.beton
Small:     python recipes/studies/detach.py --small
Expected:  attached centroids change the gradient by two thirds, a detached target by less than 1 % with ten classes and
           by a seventh with a thousand; what that does to the accuracy is not measured yet
"""

from fastvarcon.studies import Point, Study, run_study

STUDY = Study(
    name="detach",
    series=(Point("VarCon", {"loss.name": "varcon"}),),
    points=tuple(
        Point(name, {"loss.detach_centroids": centroids, "loss.detach_target": target})
        for name, centroids, target in (
            ("centroids detached (reference)", True, False),
            ("both detached", True, True),
            ("neither detached", False, False),
            ("target detached", False, True),
        )
    ),
)

if __name__ == "__main__":
    run_study(STUDY, __doc__)
