"""Prediction of videos: the masks as a lossless video, and a video of overlays, at the times of the frames.

Frames are decoded, predicted and encoded one after the other, so memory does not grow with the length of a
video. Needs PyAV (extra `video`).
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import closing, contextmanager, nullcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.child import stop_requests
from zoo.errors import InvalidImageError, ZooError
from zoo.predict.outputs import OVERLAY, Result, describe, files, named_areas, new_files
from zoo.predictors.outputs import MASK, without_unsure
from zoo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from av import VideoFrame
    from numpy.typing import NDArray

    from zoo.predict.inputs import Input
    from zoo.predict.outputs import Job
    from zoo.predict.stream import Options
    from zoo.predictors.base import Predictor

log = logging.getLogger(__name__)

WAIT_S = 30.0
"""Time for which a live stream may stall before it has ended."""

DEFAULT_RATE = Fraction(25)
"""Frames per second of a stream that does not say it."""


def write_video(
    job: Job,
    predictor: Predictor,
    options: Options,
    out: Path,
    kinds: Sequence[str],
    unknown_below: float | None = None,
) -> Result:
    """Return the result of a video, with its outputs written to temporary files in their final folder.

    Masks and other outputs are FFV1 in Matroska, lossless, gray levels = class ids (16 bits if there are more
    than 256 classes); overlays are H.264. Frames keep their times and are turned upright. Ctrl-C ends a live
    stream as if it had ended by itself, and so does a stall of `WAIT_S`.

    Args:
        job: a video.
        predictor: model that predicts.
        options: options of batches and outputs.
        out: output folder.
        kinds: kinds of the requested results, including `MASK`.
        unknown_below: reliability below which a pixel of a mask is `IGNORE`; None for no such pixel.

    Raises:
        InvalidImageError: a video that cannot be decoded, has no frames, or frames of several sizes.
        ZooError: PyAV is not installed.
        OSError: a file cannot be written; no temporary file is left.
    """
    names = {kind: job.file(kind) for kind in kinds}
    with new_files(names, out) as (paths, written), _opened(job.input) as container:
        source = container.streams.video[0]
        video = _Outputs(job.input.name, paths, source.average_rate or DEFAULT_RATE)
        frames = _frames(container, job.input, video.rate)
        results = _predicted(predictor, frames, options, unknown_below)
        with closing(video), closing(results), Progress(source.frames or None) as progress:
            for frame, found, seconds in results:
                video.add(frame, found, seconds)
                progress.advance()
        if not video.frames:
            raise _unreadable(job.input.name, "no frames")
    shares = {label: share / video.frames for label, share in video.shares.most_common()}
    record = {
        **describe(job),
        "size": list(video.size),
        "frames": video.frames,
        "areas": named_areas(shares, predictor.classes),
        "ms": video.seconds * 1000 / video.frames,
        **{kind: names.get(kind) for kind in files()},
    }
    return Result(record, written)


def _predicted(
    predictor: Predictor, frames: Iterator[VideoFrame], options: Options, unknown_below: float | None
) -> Generator[tuple[VideoFrame, dict[str, NDArray[Any]], float]]:
    """Yield each frame, its outputs and overlay by kind, and the seconds that the model took.

    Raises:
        InvalidImageError: a frame that the model does not take.
    """
    from zoo.pages.overlay import overlay
    from zoo.predict.stream import Failed, stream

    with closing(stream(predictor, frames, _upright, options)) as results:
        for result in results:
            if isinstance(result, Failed):
                raise result.error
            found = dict(result.prediction().outputs)
            if unknown_below is not None:
                found[MASK] = without_unsure(found, unknown_below)
            if result.image is not None:
                found[OVERLAY] = overlay(result.image, found[MASK], predictor.classes)
            yield result.item, found, result.seconds


class _Outputs:
    """The files of a video that are being written, and what its frames add up to.

    Args:
        name: name of the video.
        paths: path of each file by kind.
        rate: frames per second.
    """

    def __init__(self, name: str, paths: Mapping[str, Path], rate: Fraction) -> None:
        self.name = name
        self.paths = paths
        self.rate = rate
        self.frames, self.seconds, self.size = 0, 0.0, (0, 0)
        self.shares: Counter[int] = Counter()
        """Sum over the frames of the share of each label."""
        self.writers: dict[str, _Writer] = {}

    def add(self, frame: VideoFrame, found: Mapping[str, NDArray[Any]], seconds: float) -> None:
        """Write the outputs of a frame.

        Raises:
            InvalidImageError: the frame has another size than those before.
        """
        from zoo.pages.overlay import areas

        mask = found[MASK]
        if not self.frames:
            self.size = mask.shape[0], mask.shape[1]
            self.writers = {
                kind: _Writer(path, kind, self.size, self.rate) for kind, path in self.paths.items()
            }
        if mask.shape != self.size:
            raise _unreadable(self.name, f"frames of {self.size[1]}x{self.size[0]} and other pixels")
        for kind, writer in self.writers.items():
            writer.write(found[kind], frame)
        self.shares.update(areas(mask))
        self.frames += 1
        self.seconds += seconds

    def close(self) -> None:
        """Finish the files."""
        for writer in self.writers.values():
            writer.close()


@contextmanager
def _opened(input_: Input) -> Iterator[Any]:
    """Open a video.

    Raises:
        InvalidImageError: it cannot be opened, or has no images.
        ZooError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ZooError(
            f"{input_.name}: got a video, expected PyAV to decode it: pip install 'semiseg-zoo[video]'"
        ) from error
    try:
        container = av.open(input_.video, timeout=None if input_.path else (WAIT_S, WAIT_S))
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(input_.name, _reason(error)) from error
    with container:
        if not container.streams.video:
            raise _unreadable(input_.name, "no images")
        container.streams.video[0].thread_type = "AUTO"
        yield container


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _unreadable(name: str, got: str) -> InvalidImageError:
    return InvalidImageError(
        f"{name}: got a video with {got}, expected one that FFmpeg decodes: play it, or convert it to MP4"
    )


def _frames(container: Any, input_: Input, rate: Fraction) -> Iterator[VideoFrame]:
    """Yield frames with times that increase; those without get the next one by the rate.

    Ctrl-C, or a stall, ends a live stream.

    Raises:
        InvalidImageError: a frame cannot be decoded.
    """
    from av import ExitError, FFmpegError, TimeoutError

    last = -1
    with stop_requests() if input_.path is None else nullcontext(()) as stops:
        try:
            for number, frame in enumerate(container.decode(video=0)):
                if frame.pts is None or not frame.time_base:
                    frame.pts, frame.time_base = number, 1 / rate
                frame.pts = last = max(frame.pts, last + 1) if number else frame.pts
                yield frame
                if stops:
                    return
        except (ExitError, TimeoutError):
            log.warning("%s: no frame for %g s: this is taken as its end", input_.name, WAIT_S)
        except FFmpegError as error:
            raise _unreadable(input_.name, _reason(error)) from error


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a frame as (H, W, 3) uint8 RGB, turned as its display matrix says."""
    image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(image, np.uint8)


class _Writer:
    """A video file that is being written.

    Args:
        path: its path; the name may have any suffix.
        kind: `OVERLAY`, or the name of an output.
        size: height and width of the frames.
        rate: frames per second.
    """

    def __init__(self, path: Path, kind: str, size: tuple[int, int], rate: Fraction) -> None:
        import av

        self.is_overlay = kind == OVERLAY
        self.container = av.open(str(path), "w", format="mp4" if self.is_overlay else "matroska")
        self.stream: Any = self.container.add_stream("h264" if self.is_overlay else "ffv1", rate=rate)
        height, width = size
        self.padding = (height % 2, width % 2) if self.is_overlay else (0, 0)
        self.stream.height, self.stream.width = height + self.padding[0], width + self.padding[1]
        self.begun = False

    def write(self, pixels: NDArray[Any], frame: VideoFrame) -> None:
        """Write an image, (H, W) or (H, W, 3), at the time of a frame."""
        from av import VideoFrame

        wide = pixels.dtype != np.uint8
        layout = "rgb24" if self.is_overlay else "gray16le" if wide else "gray"
        if any(self.padding):  # H.264 halves the colors' size
            pixels = np.pad(pixels, ((0, self.padding[0]), (0, self.padding[1]), (0, 0)), "edge")
        new = VideoFrame.from_ndarray(np.ascontiguousarray(pixels, np.uint16 if wide else None), layout)
        new.pts, new.time_base = frame.pts, frame.time_base
        if not self.begun:
            self.begun = True
            self.stream.pix_fmt = "yuv420p" if self.is_overlay else layout
            self.stream.codec_context.time_base = frame.time_base
        self.container.mux(self.stream.encode(new))

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self.begun:
            self.container.mux(self.stream.encode(None))
        self.container.close()
