"""Print gestures while a file, a stream or a camera plays, at the cost of one segment per answer.

That needs a causal network, which never looks ahead and keeps its state from segment to segment:

    mdtnet train --data gestures --model tsm --model.tsm.causal true --trunk mobilenet_v2 --out runs/gestures
    python examples/live_gestures.py runs/gestures/checkpoints/best.pt day.mp4
    python examples/live_gestures.py runs/gestures/checkpoints/best.pt 0

Other networks work too, as windows that slide: each answer then costs T segments. A gesture is printed when it is the
most probable one, is likely enough, and is not the one that was printed last.
"""

import argparse

import mdtnet
from mdtnet.live import Reader, follow, opener, rhythm_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint, a name of the zoo, or an exported stream")
    parser.add_argument("source", help="a file, an address, or the number of a camera")
    parser.add_argument("--sure", type=float, default=0.6, help="least probability of what is printed, 0 to 1")
    parser.add_argument("--nothing", default="background", help="class that is no gesture")
    options = parser.parse_args()

    model = mdtnet.load(options.checkpoint)
    if not model.keeps_state:
        print("this network looks ahead: it runs as a sliding window")
    about = model.description
    reader = Reader(opener(options.source, short_side=about.short_side), rhythm_of(about))
    last = options.nothing
    for answer in follow(model, reader, about, topk=1):
        gesture, probability = answer.classes[0], answer.probabilities[0]
        if gesture != last and probability >= options.sure:
            if gesture != options.nothing:
                print(f"{answer.seconds:7.2f} s  {gesture}  {probability:.0%}", flush=True)
            last = gesture
    print(f"{reader.frames} frames, {reader.dropped} dropped")


if __name__ == "__main__":
    main()
