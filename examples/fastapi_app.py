"""An HTTP service of your own around a network: upload a video, get its actions.

    pip install "mdtnet[serve]"
    python examples/fastapi_app.py runs/mine/checkpoints/best.pt
    curl -F video=@clip.mp4 "http://127.0.0.1:8000/actions?topk=3"

A start for an application that has users, logins and a database of its own. Videos are decoded in this process: for
files of strangers take `mdtnet serve`, which decodes each in a process that may crash, with limits on size and time.
"""

import argparse
from threading import Lock
from typing import Annotated

import uvicorn
from fastapi import FastAPI, HTTPException, Query, UploadFile

import mdtnet


def create_app(checkpoint: str) -> FastAPI:
    """The application; the network is loaded once."""
    model = mdtnet.Recogniser.load(checkpoint)
    turn = Lock()  # two videos at once would only share the cores
    app = FastAPI(title="Actions in videos")

    @app.get("/classes")
    def classes() -> list[str]:
        return list(model.classes)

    @app.post("/actions")
    def actions(video: UploadFile, topk: Annotated[int, Query(ge=1, le=100)] = 3) -> dict:
        try:
            with turn:
                found = model.predict(video.file, topk=topk)
        except mdtnet.VideoError as error:
            raise HTTPException(422, error.reason) from error
        return {"actions": dict(zip(found.classes, found.probabilities)), "seconds": found.seconds}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint, or a name of the zoo")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    uvicorn.run(create_app(options.checkpoint), port=options.port)


if __name__ == "__main__":
    main()
