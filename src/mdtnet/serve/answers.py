"""What the server answers, as models of its OpenAPI description."""

from typing import Literal

from pydantic import BaseModel, Field


class Best(BaseModel):
    """A class and its probability."""

    name: str = Field(alias="class")
    probability: float = Field(description="0 to 1")


class Window(BaseModel):
    """A stretch of a long video."""

    start: float = Field(description="seconds")
    end: float = Field(description="seconds")
    predictions: list[Best]


class Salience(BaseModel):
    """Small frames and their motion salience, as two pictures of tiles, row by row."""

    times: list[float] = Field(description="seconds of each tile")
    width: int = Field(description="of a tile, pixels")
    height: int
    across: int = Field(description="tiles per row")
    maps: str = Field(description="PNG as a data URI: salience in colour, still places transparent")
    frames: str = Field(description="JPEG as a data URI")


class Detail(BaseModel):
    """What a video shows when, and where it moves."""

    duration: float = Field(description="seconds; 0 of a picture")
    timeline: list[Window] = Field(description="scores over time; empty for short videos")
    salience: Salience


class Answer(BaseModel):
    """What a video shows."""

    predictions: list[Best] = Field(description="the most probable class first")
    damaged: str | None = Field(description="damaged or missing frames, if any, in words")
    detail: Detail | None = Field(description="where it was asked for")
    seconds: float = Field(description="time for reading and computing")


class LiveAnswer(BaseModel):
    """What a webcam showed in the last seconds."""

    predictions: list[Best]
    salience: str = Field(description="of the newest frame: PNG as a data URI")
    seconds: float


class Health(BaseModel):
    """The server answers, and with which network."""

    status: Literal["ok"]
    version: str
    system: str
    trunk: str
    classes: int


REFUSALS = {
    403: "asked by another site's page",
    408: "the upload took too long",
    413: "the upload is too large",
    422: "not a video that can be read, or too long; the reason is in `detail`",
    503: "busy: try again",
    504: "reading the video took too long",
}
"""HTTP status -> its reason."""
