"""Videos: each frame as the image that it is, at its time."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.pages.overlay import overlay
from zoo.predict.inputs import find_inputs
from zoo.predict.video import _upright
from zoo.predictors.load import load_predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from typer.testing import Result

    Zoo = Callable[..., Result]

av: Any = pytest.importorskip("av")

SIZE = (40, 51)

pytestmark = pytest.mark.usefixtures("zoo")  # an empty folder


def frames_of(count: int, size: tuple[int, int] = SIZE) -> list[NDArray[np.uint8]]:
    """Return frames of random blocks, each (H, W, 3)."""
    cells = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    large = cells.repeat(-(-size[0] // 8), 1).repeat(-(-size[1] // 8), 2)
    return list(large[:, : size[0], : size[1]])


def record(
    path: Path | str, frames: Sequence[NDArray[np.uint8]], times: Sequence[int] | None = None, **options: str
) -> Path:
    """Write a lossless video; the times are in milliseconds, by default 40 each."""
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("ffv1" if not options else "mpeg2video", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0" if not options else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000) if not options else Fraction(1, 25)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = 40 * index if times is None else times[index]
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def played(path: Path, layout: str) -> tuple[list[NDArray[Any]], list[float]]:
    """Return the frames of a video and their times in seconds."""
    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
    return [frame.to_ndarray(format=layout) for frame in found], [round(frame.time, 3) for frame in found]


def test_the_masks_of_a_video_are_those_of_its_frames_at_their_times(zoo: Zoo, shapes_bundle: Path) -> None:
    frames, times = frames_of(11), [0, 40, 80, 81, 200, 1000, 1001, 1040, 1080, 2000, 9000]
    record("clip.mkv", frames, times)
    result = zoo("predict", shapes_bundle, "clip.mkv", "--overlay", "--confidence", "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    predictor = load_predictor(shapes_bundle)
    expected = [predictor.predict(frame) for frame in frames]
    masks, seconds = played(Path("out/clip.mask.mkv"), "gray")
    assert np.array_equal(masks, expected)
    assert seconds == [each / 1000 for each in times]
    confidences, _ = played(Path("out/clip.confidence.mkv"), "gray")
    assert np.array_equal(confidences[3], predictor.predict_with_confidence(frames[3]).confidence)
    drawn, seconds = played(Path("out/clip.overlay.mp4"), "rgb24")
    assert seconds == [each / 1000 for each in times]
    assert drawn[0].shape == (40, 52, 3)  # H.264 halves the colors' size
    blended = overlay(frames[5], expected[5], predictor.classes)
    assert np.abs(drawn[5][:, :51].astype(int) - blended).mean() < 25  # noise, compressed
    [video] = json.loads(result.stdout)["images"]
    assert (video["frames"], video["size"]) == (11, list(SIZE))
    shares = {
        name: np.mean(np.array(expected) == label) for label, name in enumerate(predictor.classes.names)
    }
    assert video["areas"] == pytest.approx({name: share for name, share in shares.items() if share})


def test_a_finished_video_is_kept_and_one_that_someone_edited_is_not_replaced(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    record("clip.mkv", frames_of(2))
    assert zoo("predict", shapes_bundle, "clip.mkv", "--json").exit_code == 0
    again = json.loads(zoo("predict", shapes_bundle, "clip.mkv", "--json").stdout)
    assert (again["kept"], again["predicted"]) == (1, 0)
    record("clip.mkv", frames_of(3))
    Path("predictions/clip.mask.mkv").write_bytes(b"mine")
    refused = zoo("predict", shapes_bundle, "clip.mkv")
    assert "(clip.mask.mkv)" in str(refused.exception)
    assert Path("predictions/clip.mask.mkv").read_bytes() == b"mine"


def test_the_results_are_no_inputs_of_the_next_prediction(zoo: Zoo, shapes_bundle: Path) -> None:
    record("clip.mkv", frames_of(1))
    assert zoo("predict", shapes_bundle, "clip.mkv", "--out", ".").exit_code == 0
    assert Path("clip.mask.mkv").is_file()
    assert [each.name for each in find_inputs(["*.mkv"], 8, Path())] == ["clip.mkv"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "Invalid data"), (b"\0" * 4000, "Invalid data"), ("sound", "no images"), ("cut", "")],
)
def test_a_video_that_cannot_be_read_is_one_line_and_leaves_no_file(
    zoo: Zoo, shapes_bundle: Path, content: bytes | str, reason: str
) -> None:
    if content == "sound":
        with av.open("bad.mkv", "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
    elif content == "cut":
        record("whole.mkv", frames_of(1, (320, 320)))
        Path("bad.mkv").write_bytes(Path("whole.mkv").read_bytes()[:700])
    else:
        assert isinstance(content, bytes)
        Path("bad.mkv").write_bytes(content)
    record("good.mkv", frames_of(2))
    result = zoo("predict", shapes_bundle, "bad.mkv", "good.mkv", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    [error] = found["errors"]
    assert error["input"] == "bad.mkv"
    assert error["error"].startswith("bad.mkv: got a video with ")
    assert reason in error["error"]
    assert "\n" not in error["error"]
    assert found["predicted"] == 1
    assert not [path for path in Path("predictions").iterdir() if "bad" in path.name]


@pytest.mark.parametrize(("rotation", "turns"), [(0, 0), (90, 1), (-90, 3), (180, 2), (-180, 2)])
def test_frames_are_turned_upright(rotation: int, turns: int) -> None:
    [pixels] = frames_of(1, (16, 24))

    class Turned:
        def __init__(self) -> None:
            self.rotation = rotation

        def to_ndarray(self, format: str) -> NDArray[np.uint8]:
            assert format == "rgb24"
            return pixels

    assert np.array_equal(_upright(Turned()), np.rot90(pixels, turns))  # type: ignore[arg-type]


def test_the_password_of_a_stream_is_in_no_name() -> None:
    [found] = find_inputs(["rtsp://me:secret@camera:554/live?channel=1"], 8, Path("out"))
    assert found.name == "rtsp://camera:554/live?channel=1"
    assert found.outputs[0] == "rtsp_camera_554_live_channel_1"
    assert found.video == "rtsp://me:secret@camera:554/live?channel=1"


@contextmanager
def sending(content: bytes, *, ends: bool) -> Iterator[str]:
    """Serve a stream on a loopback port; yield its address."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)
                if not ends:
                    done.wait(60)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        done.set()


def broadcast() -> bytes:
    """Return an MPEG transport stream of 60 frames."""
    return record("live.ts", frames_of(60, (48, 64)), format="mpegts").read_bytes()


def test_a_live_stream_is_predicted_until_it_ends(zoo: Zoo, shapes_bundle: Path) -> None:
    with sending(broadcast(), ends=True) as address:
        result = zoo("predict", shapes_bundle, address, "--json")
    assert result.exit_code == 0, result.output
    [video] = json.loads(result.stdout)["images"]
    masks, times = played(Path(video["mask"]), "gray")
    assert len(masks) == video["frames"] >= 55
    assert np.allclose(np.diff(times), 0.04, atol=0.002)


def test_a_stall_ends_a_live_stream_and_keeps_its_masks(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zoo.predict.video.WAIT_S", 2.0)
    with sending(broadcast(), ends=False) as address:
        result = zoo("predict", shapes_bundle, address, "--json")
    assert result.exit_code == 0, result.output
    [video] = json.loads(result.stdout)["images"]
    assert len(played(Path(video["mask"]), "gray")[0]) == video["frames"] >= 55
    assert "no frame for 2 s" in caplog.text


@pytest.mark.slow
def test_ctrl_c_ends_a_live_stream_and_keeps_its_masks(shapes_bundle: Path) -> None:
    with sending(broadcast() * 40, ends=False) as address:
        command = [sys.executable, "-m", "zoo", "predict", str(shapes_bundle), address, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not list(Path().glob("predictions/.*.mkv.*.tmp")):
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    [video] = json.loads(out)["images"]
    assert len(played(Path(video["mask"]), "gray")[0]) == video["frames"] > 0
