"""Makes examples/clip.mp4: a grey film of two shots with sound, from photos of scikit-image.

python examples/make_clip.py examples/clip.mp4
"""

import sys
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

SIZE, FPS, FRAMES = (480, 360), 25, 50
RATE = 16000  # of the sound, hertz


def main(target: Path) -> None:
    """Write the film: two seconds over each photo, with a tone that changes at the cut."""
    with av.open(
        str(target), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}
    ) as film:
        video = film.add_stream("libx264", rate=FPS, options={"crf": "24", "preset": "slow"})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.codec_context.thread_count = 1
        sound = film.add_stream("aac", rate=RATE, layout="mono", options={"b": "32000"})
        for photo in (data.astronaut(), data.coffee()):
            for picture in pan(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)):
                frame = av.VideoFrame.from_ndarray(picture, format="gray")
                film.mux(video.encode(frame.reformat(format="yuv420p", dst_color_range="MPEG")))
        film.mux(video.encode(None))
        times = np.arange(2 * FRAMES * RATE // FPS, dtype=np.float32) / RATE
        wave = 0.1 * np.sin(2 * np.pi * np.where(times < 2, 220, 330) * times)
        for start in range(0, len(wave) - 1023, 1024):
            part = av.AudioFrame.from_ndarray(
                wave[None, start : start + 1024].astype(np.float32), format="fltp", layout="mono"
            )
            part.sample_rate, part.pts = RATE, start
            film.mux(sound.encode(part))
        film.mux(sound.encode(None))


def pan(photo: np.ndarray) -> list[np.ndarray]:
    """Frames of a camera that moves over a photo (H,W) and comes nearer."""
    height, width = photo.shape
    frames = []
    for t in np.linspace(0, 1, FRAMES):
        wide = min(width, height * SIZE[0] / SIZE[1]) * (0.95 - 0.25 * t)
        scale = SIZE[0] / wide
        x, y = (width - wide) * t, (height - SIZE[1] / scale) * 0.3 * t
        place = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
        frames.append(cv2.warpAffine(photo, place, SIZE, flags=cv2.INTER_CUBIC))
    return frames


if __name__ == "__main__":
    main(Path(sys.argv[1]))
