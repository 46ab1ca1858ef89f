"""Try a setting of ex_6 on training images alone: 45,000 to learn from, 5,000 to score one, two and six views of.

    python benchmarks/fast_lane_tries.py --data cifar10-jpeg -s 100 --widths 16,64,64 -e 5 --sizes 16,18,22,26,32

What stands behind the script are ex_6's own options. The test images are left alone: docs/fast_lane.md has what was
tried so, and this is how an entry should be tuned.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import ex_6  # noqa: E402
from common.experiment import run_experiment  # noqa: E402
from common.training.loop import evaluate  # noqa: E402
from common.transforms.tta import views  # noqa: E402

VAL_FRACTION = 0.1
VIEWS = (1, 2, 6)


def main(argv=None):
    """Train, print the accuracies on the validation images, and return the run folder."""
    ex_6.evaluate_last = score
    return run_experiment(ex_6.__file__, ex_6.parse_options(argv), ex_6.train_and_test, ex_6.IMAGE_SIZE, VAL_FRACTION)


def score(run, model, val, _):
    """Print what the last weights score on validation images, by the number of views, instead of testing them."""
    model.load_state_dict(run.state.eval_model.state_dict())
    for count in VIEWS:
        logits, labels = evaluate(model, val, run.machine, f"{count} views", views(count))
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        print(f"{count} view(s) of {len(labels)} validation images: {accuracy:.4f}")
    run.finish()


if __name__ == "__main__":
    main()
