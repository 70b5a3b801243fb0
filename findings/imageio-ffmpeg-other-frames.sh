#!/usr/bin/env bash
# Guess: imageio-ffmpeg's `read_frames` gives the frames of a video, as many as its `count_frames_and_secs` says (its
#   documentation points there for the number), and frame n lies at n / fps of the metadata that it gives first.
# Really: ffmpeg makes a constant rate of it, of which the documentation says nothing. Where the time between frames
#   varies, as in films of phones in the dark and of cameras that slow down while nothing moves, frames come several
#   times, and from an MP4 with B-frames others never: of 40 frames 28 are lost, though 333 are read. The fps given is
#   about the mean one for an MP4, not the rate that was made: by it the last frame of 11 seconds lies at 107 seconds.
#   count_frames_and_secs, PyAV and OpenCV have each frame once, and so has output_params=["-fps_mode", "passthrough"],
#   still without its time.
# Here: videos are read by OpenCV frame by frame.
set -euo pipefail
room="$(mktemp -d)"
trap 'rm -rf "$room"' EXIT
cd "$room"
python3 -m venv venv
venv/bin/pip install --quiet imageio-ffmpeg==0.8.1 av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > check.py <<'EOF'
from collections import Counter
from fractions import Fraction
from importlib.metadata import version

import av
import cv2
import imageio_ffmpeg
import numpy as np

names = ("imageio-ffmpeg", "av", "opencv-python-headless")
program = imageio_ffmpeg.get_ffmpeg_version().split("-")[0]
print(" ".join(f"{name} {version(name)}" for name in names), "ffmpeg", program)
av.logging.set_level(av.logging.ERROR)  # x264 is talkative
HEIGHT, BAR = 64, 40
PASSTHROUGH = ["-fps_mode", "passthrough"]


def number(picture):
    """The number of a frame, written as eight bars, white for a one."""
    return sum(int(picture[HEIGHT // 2, BAR * bit + BAR // 2, 1] > 127) << bit for bit in range(8))


def write(path, milliseconds, codec, options):
    """A video with one numbered frame at each of these times."""
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 8 * BAR, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(milliseconds):
            bars = [255 * (index >> bit & 1) for bit in range(8)]
            row = np.repeat(np.array(bars, np.uint8), BAR)
            frame = av.VideoFrame.from_ndarray(np.broadcast_to(row[None, :, None], (HEIGHT, 8 * BAR, 3)).copy())
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def read(path, *more):
    """What read_frames gives: its metadata and the numbers of its frames."""
    frames = imageio_ffmpeg.read_frames(path, output_params=list(more))
    about = next(frames)
    return about, [number(np.frombuffer(each, np.uint8).reshape(HEIGHT, 8 * BAR, 3)) for each in frames]


def by_pyav(path):
    with av.open(path) as file:
        frames = [(number(each.to_ndarray(format="rgb24")), round(1000 * each.time)) for each in file.decode(video=0)]
    return [list(column) for column in zip(*frames, strict=True)]


def by_opencv(path):
    video, found = cv2.VideoCapture(path), []
    while (picture := video.read()[1]) is not None:
        found.append(number(picture))
    return found


FULL = [round(i * 100 / 3) for i in range(30)]  # a second at 30 frames per second
FILMS = {
    "even": FULL + [1000 + t for t in FULL],
    "dark": FULL + [1000 + t for t in FULL[::2]] + [2000 + t for t in FULL],  # a second at 15 within
    "idle": [1000 * i for i in range(10)] + [10000 + t for t in FULL],  # one per second until something moves
}
seen = {}
for film, times in FILMS.items():
    for path, codec, options in (
        (f"{film}-mpeg4.mp4", "mpeg4", {}),
        (f"{film}-bf0.mp4", "libx264", {"bf": "0"}),  # without B-frames
        (f"{film}.mp4", "libx264", {}),
        (f"{film}.mkv", "libx264", {}),
    ):
        write(path, times, codec, options)
        about, got = read(path)
        all_frames, stated = list(range(len(times))), imageio_ffmpeg.count_frames_and_secs(path)[0]
        assert by_pyav(path) == [all_frames, times] and by_opencv(path) == all_frames and stated == len(times)
        assert read(path, *PASSTHROUGH)[1] == all_frames
        counts = Counter(got)
        lost, often = len(set(all_frames) - set(got)), max(counts.values())
        last = (len(got) - 1) / about["fps"]
        seen[path] = len(got), lost, often
        print(f"{path}: counted {stated}, read {len(got)}, lost {lost}, one up to {often} times; the last at "
              f"{times[-1] / 1000:.2f} s, by fps {about['fps']} at {last:.2f} s")
        if film == "even":
            assert got == all_frames
        else:
            assert len(got) > len(times)
        if path == "idle.mp4":
            print("  read:", ", ".join(f"{n} x {k}" for k, n in counts.items()))
            assert last > 80
assert {path for path, (_, lost, _) in seen.items() if lost} == {"idle.mp4"}
assert seen["idle.mp4"][0] > 320 and seen["idle.mp4"][1] > 20 and seen["dark-bf0.mp4"] == (90, 0, 2)
EOF
venv/bin/python check.py
# Seen (Python 3.11, Linux, x86-64):
#   imageio-ffmpeg 0.8.1 av 18.1.0 opencv-python-headless 5.0.0.93 ffmpeg n9.0.2
#   even-mpeg4.mp4: counted 60, read 60, lost 0, one up to 1 times; the last at 1.97 s, by fps 30.0 at 1.97 s
#   even-bf0.mp4: counted 60, read 60, lost 0, one up to 1 times; the last at 1.97 s, by fps 30.0 at 1.97 s
#   even.mp4: counted 60, read 60, lost 0, one up to 1 times; the last at 1.97 s, by fps 30.0 at 1.97 s
#   even.mkv: counted 60, read 60, lost 0, one up to 1 times; the last at 1.97 s, by fps 30.0 at 1.97 s
#   dark-mpeg4.mp4: counted 75, read 90, lost 0, one up to 2 times; the last at 2.97 s, by fps 25.0 at 3.56 s
#   dark-bf0.mp4: counted 75, read 90, lost 0, one up to 2 times; the last at 2.97 s, by fps 25.0 at 3.56 s
#   dark.mp4: counted 75, read 91, lost 0, one up to 3 times; the last at 2.97 s, by fps 25.0 at 3.60 s
#   dark.mkv: counted 75, read 90, lost 0, one up to 2 times; the last at 2.97 s, by fps 30.0 at 2.97 s
#   idle-mpeg4.mp4: counted 40, read 330, lost 0, one up to 30 times; the last at 10.97 s, by fps 3.64 at 90.38 s
#   idle-bf0.mp4: counted 40, read 330, lost 0, one up to 30 times; the last at 10.97 s, by fps 3.64 at 90.38 s
#   idle.mp4: counted 40, read 333, lost 28, one up to 30 times; the last at 10.97 s, by fps 3.09 at 107.44 s
#     read: 30 x 0, 30 x 1, 30 x 2, 30 x 3, 30 x 4, 30 x 5, 30 x 6, 30 x 7, 30 x 8, 30 x 9, 30 x 10, 3 x 13
#   idle.mkv: counted 40, read 330, lost 0, one up to 30 times; the last at 10.97 s, by fps 30.0 at 10.97 s
