"""Train on your own videos, test, and write a page about the run.

Videos lie in one folder per class: videos/jump, videos/wave, ... A part of them is held out to choose the best epoch.
Give videos that belong together (one person, one recording) one group, so that they stay on one side:

    python examples/own_videos.py videos --group '(person\\d+)' --test videos_of_others --out runs/own

The start are ImageNet's weights, which are downloaded once; `--weights ''` starts from nothing.
"""

import argparse

import mdtnet
from mdtnet.pages.report import build_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", help="folder of class folders, or a list file")
    parser.add_argument("--test", default="", help="videos to test on in the end, in the same form")
    parser.add_argument("--out", default="runs/own", help="folder of the run")
    parser.add_argument("--group", default="", help="regular expression whose first (...) names a video's group")
    parser.add_argument("--weights", default="imagenet", help="start: imagenet, a file, a name of the zoo, or nothing")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--size", type=int, default=224, help="side of the crop that the network sees, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    options = parser.parse_args()

    config = mdtnet.RunConfig(
        out=options.out,
        data=mdtnet.DataConfig(
            train=options.videos,
            group=options.group,
            size=options.size,
            short_side=options.size * 8 // 7,
            workers=options.workers,
        ),
        model=mdtnet.ModelConfig(name="mdtnet2", trunk="mobilenet_v2", weights=options.weights),
        train=mdtnet.TrainConfig(epochs=options.epochs, batch_size=8, schedule="cosine", clip_grad=20),
    )
    result = mdtnet.train(config)
    print(f"epoch {result.best_epoch} is the best: top-1 {result.val_top1:.1%} of the videos held out")
    if options.test:
        figures = mdtnet.evaluate_checkpoint(
            f"{result.out}/checkpoints/best.pt", data=options.test, out=f"{result.out}/test", test=config.test
        )
        print(f"top-1 {figures['top1']:.1%} of {figures['videos']} videos in {options.test}")
    print(f"wrote {build_report(result.out)}")


if __name__ == "__main__":  # processes that decode import this file
    main()
