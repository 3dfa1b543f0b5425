"""Fine-tune a public checkpoint on your own videos.

The checkpoint is a name that `mdtnet zoo` lists, or a file. It is fetched once. Its system, trunk and number of
segments are kept; a classifier for your classes takes the place of its own, and learns five times as fast:

    python examples/fine_tune.py tsm-resnet50-kinetics400-8f videos --out runs/tuned

With few videos, `--freeze stages` trains only the last stage and the classifier.
"""

import argparse
from dataclasses import replace

import mdtnet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a name of the zoo, or a file")
    parser.add_argument("videos", help="folder of class folders, or a list file")
    parser.add_argument("--out", default="runs/tuned", help="folder of the run")
    parser.add_argument("--freeze", default="none", choices=("none", "stem", "stages", "trunk"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.005, help="learning rate for a batch of 64")
    parser.add_argument("--size", type=int, default=224, help="side of the crop that the network sees, in pixels")
    options = parser.parse_args()

    network = mdtnet.load_model(options.checkpoint)
    print(f"{options.checkpoint}: {network.config.model.name}, knows {len(network.classes)} classes")
    config = mdtnet.RunConfig(
        out=options.out,
        data=replace(
            network.config.data,
            train=options.videos,
            size=options.size,
            short_side=options.size * 8 // 7,
            flip=True,
        ),
        model=replace(network.config.model, weights=options.checkpoint, freeze=options.freeze),
        train=mdtnet.TrainConfig(
            epochs=options.epochs,
            batch_size=8,
            lr=options.lr,
            schedule="cosine",
            classifier_lr=5,
            partial_bn=True,
            clip_grad=20,
        ),
    )
    result = mdtnet.train(config)
    print(f"epoch {result.best_epoch} is the best: top-1 {result.val_top1:.1%} of the videos held out")


if __name__ == "__main__":
    main()
